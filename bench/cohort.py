"""``python -m bench.cohort``: pairs by ``l2rfast cohort``, beside loops over the command and over the Python call.

Generated images, all to the first of them. What they all have to do is the same, but that the Python call writes
nothing: the loops take a pair at a time, with all cores, and the cohort a pair on every core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image

from . import machine
from .report import REPORTS, digits, kept, table

L2RFAST = [sys.executable, "-m", "l2rfast.cli"]
COHORT, COMMAND, CALL = "l2rfast cohort", "a loop over l2rfast register", "a loop over the Python call"
TARGETS = {COMMAND: 1.7, CALL: 1.3}  # times as many pairs in a second
CALLS = """
import sys, l2rfast
for moving in sys.argv[2:]:
    l2rfast.register(sys.argv[1], moving)
"""


def make(folder: Path, size: int, pairs: int) -> tuple[Path, list[Path]]:
    """The fixed image, and those that move, and a table of them."""
    files = []
    for i, subject in enumerate(anatomies(pairs + 1, (size,) * 3)):
        files.append(folder / f"subject{i:02}.nii.gz")
        write_image(files[-1], Volume(subject.image[0, 0], np.eye(4)))
    (folder / "pairs.csv").write_text("\n".join(["moving", *(file.name for file in files[1:])]) + "\n")
    return files[0], files[1:]


def contestants(folder: Path, fixed: Path, moving: Sequence[Path]) -> dict[str, list[list[str]]]:
    """Of each the commands that it takes, one after the other. Folders of results are new ones."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name)
    return {
        COHORT: [[*L2RFAST, "cohort", str(folder / "pairs.csv"), f"--fixed={fixed}", f"--out={out}", "--quiet"]],
        COMMAND: [
            [*L2RFAST, "register", str(fixed), str(file), f"--out={out / file.name}", "--quiet"] for file in moving
        ],
        CALL: [[sys.executable, "-c", CALLS, str(fixed), *map(str, moving)]],
    }


def measure(size: int, pairs: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of all pairs, of each contestant in turn."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="l2rfast-bench-") as name:
        fixed, moving = make(Path(name), size, pairs)
        for _ in range(rounds):
            for contestant, commands in contestants(Path(name), fixed, moving).items():
                start = machine.clock()
                for command in commands:
                    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=dict(os.environ))
                seconds.setdefault(contestant, []).append(machine.clock() - start)
                print(f"{contestant}: {seconds[contestant][-1]:.1f} s", flush=True)
    return seconds


def page(record: dict[str, Any]) -> list[str]:
    """What was measured, in paragraphs of Markdown."""
    taken = {name: median(seconds) for name, seconds in record["seconds"].items()}
    rows = []
    for name, seconds in taken.items():
        times = "" if name == COHORT else f"{seconds / taken[COHORT]:.2f}"
        target = f"{TARGETS[name]:g}" if name in TARGETS else ""
        rows.append([name, digits(seconds), digits(record["pairs"] / seconds), times, target])
    head = ["", "seconds", "pairs in a second", "times as long as the cohort", "target"]
    return [
        "# Many pairs",
        f"{record['date']}. {record['pairs']} pairs of {record['size']}^3 voxels, the preset default; medians of "
        f"{record['rounds']} rounds in turns.",
        table(head, rows),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cohort", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=128, help="of the images, along each axis (default: 128)")
    parser.add_argument("--pairs", type=int, default=16, help="(default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "size": arguments.size,
        "pairs": arguments.pairs,
        "rounds": arguments.rounds,
        "machine": machine.describe(),
        "versions": machine.software(),
        "seconds": measure(arguments.size, arguments.pairs, arguments.rounds),
    }
    print(kept(arguments.out, "cohort", record, page(record)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
