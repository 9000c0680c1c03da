"""``python -m bench``: measures, prints each table as it is ready, and writes the report."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from . import UNFINISHED, cases, harness, machine, report

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "bench" / "reports"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure l2rfast beside its peers.")
    parser.add_argument("--size", choices=cases.SIZES, default="full", help="of the inputs (default: full)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    parser.add_argument(
        "--only",
        action="append",
        choices=cases.FAMILIES,
        help="what to measure; can be given several times",
    )
    parser.add_argument("--rounds", type=int, help="(default: 7; 1 at size quick)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument(
        "--out", type=Path, help="folder of the report (default: bench/reports; build/bench for quick or --only)"
    )
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run measured")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing more after so many")
    return parser.parse_args(arguments)


def folder(arguments: argparse.Namespace) -> Path:
    """Where the report goes: one of small inputs or of chosen cases never, unasked, over the committed one."""
    if arguments.out is not None:
        return Path(arguments.out)
    complete = arguments.size == "full" and not arguments.only
    return REPORTS if complete else ROOT / "build" / "bench"


def measured(
    family: str, instruction_set: str | None, arguments: argparse.Namespace, rounds: int
) -> list[harness.Measurement]:
    """The cases of a family, measured by pytest-benchmark in a process whose C allocator keeps what it once has.

    Of the instruction set PyTorch's kernels are as well, and with them the peers'.

    So it is in a training loop after the first step. Otherwise chance decides which calls the system zeroes fresh
    pages for, which takes longer than the fastest contestants.

    Raises:
        RuntimeError: something failed that is not a peer's absence or inaccuracy.
    """
    name = "-".join(filter(None, [machine.device_name(), instruction_set, arguments.size, family]))
    file = ROOT / "build" / "bench" / "measured" / f"{name}.json"
    if not (arguments.resume and file.exists()):
        file.parent.mkdir(parents=True, exist_ok=True)
        own = {"family": family, "size": arguments.size, "rounds": rounds}
        own |= {"threads": arguments.threads, "device": arguments.device}
        # pytest prints nothing of the cases; their warnings are the peers'.
        command = [sys.executable, "-m", "pytest", "bench/test_cases.py", "-qq", "-p", "no:warnings"]
        command += ["-p", "no:cacheprovider", "--benchmark-quiet", "--benchmark-disable-gc"]
        command += [f"--{name}={value}" for name, value in own.items()]
        new = file.with_suffix(".new")  # a run that is cut off leaves nothing to resume from
        environment = os.environ | harness.KEEPING | machine.limited(instruction_set)
        done = subprocess.run([*command, f"--benchmark-json={new}"], cwd=ROOT, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"{family}: pytest ended with {done.returncode}")
        new.rename(file)
    entries = json.loads(file.read_text())["benchmarks"]
    return [harness.Measurement.restored(entry["extra_info"]["measurement"]) for entry in entries]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    torch.set_default_device(arguments.device)
    full = arguments.size == "full"
    families = [name for name in cases.FAMILIES if name not in cases.APART]
    chosen = arguments.only or families
    written, sets = report.Report(arguments.size), machine.instruction_sets()
    if sets:
        written.machine |= {"instruction set": ", ".join(sets), "PyTorch's instruction set": "the same"}
    start, others = time.perf_counter(), machine.seconds_of_others()
    print(report.table(["software", "version"], [list(item) for item in written.versions.items()]))
    failed = unfinished = False
    for family in (name for name in cases.FAMILIES if name in chosen):
        measurements: list[harness.Measurement] = []
        for instruction_set in sets or [None]:
            name = ", ".join(filter(None, [family, instruction_set]))
            if time.perf_counter() - start > 60 * arguments.minutes:
                unfinished, written.skipped[name] = True, f"not started within {arguments.minutes:g} minutes"
                continue
            try:
                measurements += measured(family, instruction_set, arguments, arguments.rounds or (7 if full else 1))
            except RuntimeError as error:
                failed, written.skipped[name] = True, str(error)
        written.cases += measurements
        print(f"\n{report.sections(measurements)}", flush=True)
    busy = (machine.seconds_of_others() - others) / (time.perf_counter() - start)
    written.machine["processors kept busy by others"] = round(busy, 2)
    for name, reason in written.skipped.items():
        print(f"\nSkipped: {name} ({reason}).")
    print(f"\nReport: {written.write(folder(arguments))}")
    if failed or not all(case.results[harness.OURS].correct for case in written.cases):
        return 1
    return UNFINISHED if unfinished else 0


if __name__ == "__main__":  # the processes that are started import this file as well
    sys.exit(main())
