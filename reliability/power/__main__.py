"""``python -m reliability.power``: every command that writes files, under every fault, at every call."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from reliability.record import any_number, recorded, some

from .cases import FAULTS, Trial
from .shim import Fault, Shim, available
from .writers import prepared

PAIRS = 4  # of a full run
# In memory, where the disk is not waited for: whether it would have been is read from the calls.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 where something was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m reliability.power", description=__doc__)
    parser.add_argument("--cases", type=some, help="calls of each command, drawn; all if not given")
    parser.add_argument("--seed", type=any_number, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--pairs", type=any_number, default=PAIRS, help=f"of processes at once (default: {PAIRS})")
    parser.add_argument(
        "--faults",
        action="append",
        choices=[fault.name for fault in FAULTS],
        help="this alone, or these: may be given again",
    )
    parser.add_argument("--only", action="append", help="this command alone: may be given again")
    arguments = parser.parse_args(argv)
    if not available():
        parser.error("expected Linux on x86-64 and gcc")
    print(f"seed {arguments.seed}", flush=True)
    torch.set_num_threads(1)  # processes that are forked have no others
    faults = [Fault[name] for name in arguments.faults] if arguments.faults else FAULTS
    failed, total = 0, Counter[str]()
    full = arguments.cases is None and arguments.pairs >= PAIRS and not (arguments.faults or arguments.only)
    with recorded("power", full=full) as counts, tempfile.TemporaryDirectory(dir=QUICK) as place:
        folder = Path(place).resolve()
        for name in ("inputs", "shim"):
            (folder / name).mkdir()
        shim = Shim(folder / "shim")
        with prepared(folder / "inputs", arguments.only) as writers:
            if not writers:
                parser.error(f"--only: expected names of commands as in the report, got {', '.join(arguments.only)}")
            for number, writer in enumerate(writers):
                (folder / str(number)).mkdir()
                trial, begun = Trial(writer, folder / str(number), shim), time.monotonic()
                for failure in trial.failures(arguments.cases, arguments.seed, faults):
                    print(failure, flush=True)
                    failed += 1
                for failure in trial.together(arguments.pairs):
                    print(failure, flush=True)
                    failed += 1
                total += trial.counts
                counts[writer.name] = dict(trial.counts)
                print(
                    f"{writer.name}: {dict(trial.counts)}, {dict(trial.told)}, {time.monotonic() - begun:.0f} s",
                    flush=True,
                )
        counts |= {**total, "failures": failed}
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
