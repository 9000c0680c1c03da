"""``python -m reliability.files``: so many files, damaged, are read or refused in one sentence."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from reliability.record import REPORTS, any_number, recorded, some

from .attempt import FAILURES, READ, REFUSED
from .minimise import minimised
from .run import Failure, planned, run
from .targets import TARGETS

INPUTS, LEAST = 100_000, 1000  # of a full run
MOST = 1  # failures of a kind at one place that are minimised


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.files", description=__doc__)
    parser.add_argument("--inputs", type=some, default=INPUTS, help=f"how many (default, and a full run: {INPUTS:,})")
    parser.add_argument(
        "--least", type=any_number, default=LEAST, help=f"of each format, at most --inputs (default: {LEAST:,})"
    )
    parser.add_argument("--seed", type=any_number, default=0, help="of the damage (default: 0)")
    parser.add_argument("--only", default="", help="formats whose name holds this; nothing is recorded then")
    parser.add_argument("--report", type=Path, default=REPORTS, help="folder for the counts, also of shorter runs")
    asked = parser.parse_args()
    chosen = [target for target in TARGETS if asked.only.lower() in target.name.lower()]
    if not chosen:
        parser.error(f"--only {asked.only}: expected a part of one of {', '.join(target.name for target in TARGETS)}")
    seen: Counter[str] = Counter()

    def say(failure: Failure) -> None:
        place = f"{failure.target.name}: {failure.outcome.kind}: {failure.outcome.why[-60:]}"
        seen[place] += 1
        if seen[place] <= MOST:
            which = f"{failure.target.name}, seed {asked.seed}, input {failure.index}"
            print(f"{which}: {failure.outcome.kind}: {failure.outcome.why}")
            print(f"    {minimised(failure, asked.seed)}", flush=True)

    plan = planned(asked.inputs, chosen, min(asked.least, asked.inputs))
    if asked.only:
        totals = run(plan, asked.seed, say)
        print({target.name: dict(counts) for target, counts in totals.items()})
        return int(any(counts[kind] for counts in totals.values() for kind in FAILURES))
    full = asked.inputs >= INPUTS and asked.least >= LEAST
    with recorded("files", folder=asked.report, full=full or asked.report != REPORTS) as counts:
        found = run(plan, asked.seed, say)
        total = sum(found.values(), Counter())
        counts["inputs"] = total.total()
        counts |= {kind: total[kind] for kind in (READ, REFUSED, *FAILURES)}
        for target, each in found.items():
            counts[target.name] = {"inputs": each.total(), READ: each[READ]}
    print({name: count for name, count in counts.items() if not isinstance(count, dict)})
    return int(any(total[kind] for kind in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
