"""``python -m reliability.operators --cases 10000 --seed 0``, or ``--case "Case(...)"`` for one that was printed.

The first run builds the CUDA kernels for the host, which takes minutes.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import MutableMapping
from contextlib import ExitStack

from reliability.record import any_number, recorded, some

from .cases import Case, drawn
from .shrink import shrunk
from .worker import ENVIRONMENTS, Worker, read, serve

CASES = 10_000  # of a full run
# The CUDA kernels on the host and Triton's interpreter are slow, this only in small calls of it; the others take all.
EVERY = {"best": 1, "default": 1, "cuda": 10, "triton": 100}


def environments(index: int, case: Case) -> list[str]:
    """Where a case is checked: for how it is called otherwise than directly, the first."""
    several = case.way == "call"
    return [name for name, every in EVERY.items() if name == "best" or (several and index % every == 0)]


def run(cases: int, seed: int, counts: MutableMapping[str, int | float]) -> int:
    """Check so many cases, and print each that fails in its simplest form; how many failed."""
    found: Counter[str] = Counter(failed=0)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name)) for name in ENVIRONMENTS}
        for index in range(cases):
            case = drawn(seed, index)
            for name in environments(index, case):
                outcome, faults = workers[name].check(case)
                found[f"{outcome} on {name}"] += 1
                found["failed"] += bool(faults)
                if faults:
                    simplest = case  # one that hangs would do so again and again
                    if outcome != "hung":
                        simplest = shrunk(case, lambda other, name=name: bool(workers[name].check(other)[1]))  # type: ignore[misc]
                    print(f"case {index} of seed {seed} on {name}:", *faults, sep="\n  ")
                    print(f"  {reproducer(simplest, name)}", flush=True)
            found[case.way] += 1
            if (index + 1) % 100 == 0:
                print(f"{index + 1} cases, {found['failed']} failed", flush=True)
    counts |= {"cases": cases, **found}
    return found["failed"]


def reproducer(case: Case, environment: str) -> str:
    return shlex.join(["python", "-m", "reliability.operators", "--on", environment, "--case", repr(case)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.operators", description=__doc__)
    parser.add_argument("--cases", type=some, default=CASES, help=f"drawn (default, and a full run: {CASES:,})")
    parser.add_argument("--seed", type=any_number, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--case", type=read, help="this one alone, as it was printed")
    parser.add_argument("--on", choices=ENVIRONMENTS, default="best", help="where that one is checked (default: best)")
    parser.add_argument("--worker", choices=ENVIRONMENTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(given.worker)
    elif given.case:
        with Worker(given.on) as worker:
            outcome, faults = worker.check(given.case)
        print(outcome, *faults, sep="\n  ")
        raise SystemExit(bool(faults))
    else:
        print(f"seed {given.seed}", flush=True)
        with recorded("operators", full=given.cases >= CASES) as counts:
            failed = run(given.cases, given.seed, counts)
        print(*(f"{name}: {count}" for name, count in counts.items()), sep="\n")
        raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
