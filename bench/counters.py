"""``python -m bench.counters``: what Nsight Compute counts of the cases furthest from their floor, as a small CSV.

The report that `python -m bench` wrote into the same folder says which those are. Of every kernel that a call of ours
launches there: its time, the bandwidth it has, how busy the float64 pipe is and what its warps wait for. With
``--dry`` nothing is counted: the program that ncu would watch runs without it, also where there is no GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from . import cases, given, harness, machine
from .tune import FAMILIES

ROOT = Path(__file__).parent.parent
FURTHEST = 2
LAUNCHES = 12  # of a case, whose kernels are counted: each is repeated some twenty times for that
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats")
# Of the many metrics of these, which differ between cards, those that are kept.
KEPT = re.compile(r"gpu__time_duration\.sum|dram__(bytes|throughput)|pipe_fp64|warps_issue_stalled_")
HEAD = ("case", "kernel", "metric", "unit", "value")


def furthest(report: dict[str, Any], families: Iterable[str], size: cases.Size) -> dict[str, str]:
    """The families whose first case is the furthest from its floor, that first, with its name."""
    away: dict[str, float] = {}
    for case in report["cases"]:
        times = case["results"][harness.OURS]["times_floor"]
        if times is not None:  # null where ours was not correct
            away[case["name"]] = max(times, away.get(case["name"], 0.0))
    named = {family: cases.FAMILIES[family][0](size).name for family in families}
    measured = [family for family, name in named.items() if name in away]
    measured.sort(key=lambda family: -away[named[family]])
    return {family: named[family] for family in measured[:FURTHEST]}


def drive(family: str, size: cases.Size) -> None:
    """A call of ours, after one that compiles, between the marks that ncu heeds."""
    ours = cases.FAMILIES[family][0](size).contestants[harness.OURS]
    ours.run()
    with torch.cuda.profiler.profile() if machine.on_a_gpu() else nullcontext():
        ours.run()


def watched(command: Sequence[str]) -> list[str]:
    """The command under ncu."""
    sections = [f"--section={name}" for name in SECTIONS]
    options = ["--csv", "--page=raw", "--profile-from-start=off", f"--launch-count={LAUNCHES}"]
    return ["ncu", *options, *sections, *command]


def kept(name: str, printed: str) -> Iterator[list[str]]:
    """Rows of the CSV from what ncu printed of a case: a line of names, one of units, and one for each launch."""
    lines = csv.DictReader(line for line in printed.splitlines() if line.startswith('"'))
    units = next(lines, {})
    for launch in lines:
        for metric, value in launch.items():
            if KEPT.search(metric):
                yield [name, launch["Kernel Name"][:100], metric, units[metric], value]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.counters", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=cases.SIZES, default="full", help="of the inputs (default: full)")
    parser.add_argument("--device", type=given.device, default="cuda", help="(default: cuda)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the report, and of counters.csv")
    parser.add_argument("--dry", action="store_true", help="run what ncu would watch without it")
    parser.add_argument("--drive", choices=FAMILIES, help="only run the first case of a family: what ncu watches")
    arguments = parser.parse_args(argv)
    torch.set_default_device(arguments.device)
    size = cases.SIZES[arguments.size]
    if arguments.drive:
        drive(arguments.drive, size)
        return 0
    file = arguments.out / f"{machine.device_name()}.json"
    try:
        report = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"argument --out: expected a folder with the report of python -m bench, got {file} ({error})")
    chosen = furthest(report, FAMILIES, size)
    rows, failed = [list(HEAD)], not chosen
    for family, name in chosen.items():
        command = [sys.executable, "-m", "bench.counters", f"--drive={family}"]
        command += [f"--size={arguments.size}", f"--device={arguments.device}"]
        print(f"{name}: {' '.join(watched(command))}", flush=True)
        run = command if arguments.dry else watched(command)
        done = subprocess.run(run, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        found = list(kept(name, done.stdout))
        rows += found
        if done.returncode != 0 or not (found or arguments.dry):
            failed = True
            print(f"Error: {name}: ended with {done.returncode}, {len(found)} figures\n{done.stdout[-2000:]}")
    with (arguments.out / "counters.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
