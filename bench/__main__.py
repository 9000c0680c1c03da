"""``python -m bench``: measures, prints each table as it is ready, and writes the report."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from l2rfast import InputError

from . import cases, harness, machine, registration, report

REGISTRATION = "registration"
REPORTS = Path(__file__).with_name("reports")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure l2rfast beside its peers.")
    parser.add_argument("--size", choices=cases.SIZES, default="full", help="of the inputs (default: full)")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*cases.FAMILIES, REGISTRATION],
        help="what to measure; can be given several times",
    )
    parser.add_argument("--rounds", type=int, help="(default: 7, of the registration 3; 1 at size quick)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument(
        "--out", type=Path, help="folder of the report (default: bench/reports; a temporary one for quick or --only)"
    )
    return parser.parse_args(arguments)


def folder(arguments: argparse.Namespace) -> Path:
    """Where the report goes: an incomplete one never, unasked, over the committed one."""
    if arguments.out is not None:
        return Path(arguments.out)
    complete = arguments.size == "full" and not arguments.only
    return REPORTS if complete else Path(tempfile.mkdtemp(prefix="l2rfast-bench-"))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    full = arguments.size == "full"
    chosen = arguments.only or [*cases.FAMILIES, REGISTRATION]
    written = report.Report(arguments.size)
    start, others = time.perf_counter(), machine.seconds_of_others()
    print(report.table(["software", "version"], [list(item) for item in written.versions.items()]))
    for family in cases.FAMILIES:
        for builder in cases.FAMILIES[family] if family in chosen else []:
            make = partial(builder, cases.SIZES[arguments.size])
            measurement = harness.measure_apart(make, arguments.rounds or (7 if full else 1))
            harness.measure_memory(measurement, make)
            written.cases.append(measurement)
            print(f"\n{report.case_section(measurement)}", flush=True)
    if REGISTRATION in chosen:
        try:
            written.registration = registration.compare(arguments.rounds or (3 if full else 1), full=full)
        except InputError as error:
            written.skipped[REGISTRATION] = str(error)
            print(f"\nSkipped: {REGISTRATION} ({error}).")
        else:
            print(f"\n{report.registration_section(written.registration)}")
    busy = (machine.seconds_of_others() - others) / (time.perf_counter() - start)
    written.machine["processors kept busy by others"] = round(busy, 2)
    out = folder(arguments)
    written.write(out)
    print(f"\nReport: {out / 'cpu.md'}")
    return 0 if all(case.results[harness.OURS].correct for case in written.cases) else 1


if __name__ == "__main__":  # the processes that are started import this file as well
    sys.exit(main())
