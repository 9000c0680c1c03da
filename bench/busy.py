"""``python -m bench.busy``: `register` on a machine that does other things too.

Two real brains, the default preset: alone, beside one and beside two processes that keep a core busy each, in turns,
every run in a process of its own, with each instruction set. What counts is how many times as long as alone it takes.
Of a fair scheduler two threads on two cores get two thirds of them beside one process, and half beside two.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from l2rfast import InputError

from . import machine, runs
from .registration import load_pair
from .report import VERDICTS, digits, rounded, spread, table
from .runs import BUSY, Taken
from .tools import DEFAULT

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "bench" / "busy.npz"
BOUNDS = {0: None, 1: 1.5, 2: 2.1}  # times as long as alone, at most, by the number of other processes
NAMES = {0: "alone", 1: "beside one process", 2: "beside two processes"}
ENDLESS = "while True: pass"
EXPLANATION = """\
`register`, preset default, two brains of {shape}, {threads} threads on {cores} cores, in turns, rounds: {rounds}. Only
the call is timed; *times* is the median over the rounds of how many times as long as alone it takes. The other
processes compute without pause, a core each."""


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """While so many others keep a core busy each."""
    started = [subprocess.Popen([sys.executable, "-c", ENDLESS]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@dataclass
class Busy:
    """What the runs took: by instruction set, and by the number of other processes, one run a round."""

    size: str
    shape: list[int]
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    taken: dict[str, dict[int, list[Taken]]] = field(default_factory=dict)

    def times(self, instruction_set: str, processes: int) -> float:
        """How many times as long as alone, the median over the rounds."""
        own = self.taken[instruction_set]
        return median(one.seconds / alone.seconds for one, alone in zip(own[processes], own[0], strict=True))

    def disturbed(self, instruction_set: str) -> bool:
        """Whether anything else kept a core busy while it ran alone."""
        return max(one.others for one in self.taken[instruction_set][0]) > BUSY

    def verdict(self, instruction_set: str, processes: int) -> bool | None:
        """Whether the bound is kept; None where that cannot be told."""
        bound = BOUNDS[processes]
        if bound is None or self.size != "full" or self.disturbed(instruction_set):
            return None
        return self.times(instruction_set, processes) <= bound

    def content(self) -> dict[str, Any]:
        """All that was measured, and what follows from it."""
        times = {name: {str(n): self.times(name, n) for n in own} for name, own in self.taken.items()}
        result: dict[str, Any] = rounded(asdict(self) | {"times": times})
        return result

    def markdown(self) -> str:
        rows, shown = [], self.machine
        for name, own in self.taken.items():
            for n, found in own.items():
                bound = BOUNDS[n]
                said = "" if bound is None else f"<= {bound:g}: {VERDICTS[self.verdict(name, n)]}"
                seconds = spread([one.seconds for one in found])
                rows.append([NAMES[n], name, seconds, "" if n == 0 else digits(self.times(name, n)), said])
        told = EXPLANATION.format(
            shape=" x ".join(map(str, self.shape)),
            threads=shown["threads"],
            cores=shown["logical processors"],
            rounds=max(len(found) for own in self.taken.values() for found in own.values()),
        )
        parts = [
            "# Registration on a busy machine",
            f"Size {self.size}, {self.date}.",
            table(["", "set", "seconds", "times", "target"], rows),
            told,
            *(
                f"With {name} others kept more than {BUSY:g} processors busy while it ran alone: not to be compared."
                for name in self.taken
                if self.disturbed(name)
            ),
            table(["machine", ""], [[name, str(value)] for name, value in shown.items()]),
            table(["software", "version"], [list(item) for item in self.versions.items()]),
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> Path:
        """``busy.json`` and ``busy.md``; the second's path."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "busy.json").write_text(json.dumps(self.content(), indent=1, allow_nan=False) + "\n")
        (folder / "busy.md").write_text(self.markdown())
        return folder / "busy.md"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=["quick", "full"], default="full", help="of the images (default: full)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, help="folder of the report (default: bench/reports; build/bench for quick)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    full = arguments.size == "full"
    try:
        fixed, moving, _ = load_pair(1 if full else 2)
    except InputError as error:
        print(f"Skipped: {error}")
        return 0
    sets = machine.instruction_sets()
    described = machine.describe() | {"instruction set": ", ".join(sets), "PyTorch's instruction set": "the same"}
    report = Busy(arguments.size, list(fixed.data.shape), described, machine.software())
    report.taken = {name: {n: [] for n in BOUNDS} for name in sets}
    for _ in range(arguments.rounds):
        for name in sets:
            for n in BOUNDS:
                with beside(n):
                    one = runs.run(DEFAULT, fixed, moving, arguments.threads, KEPT, name)
                report.taken[name][n].append(one)
                print(f"{name}, {NAMES[n]}: {one.seconds:.2f} s", flush=True)
    folder = arguments.out or ROOT / ("bench/reports" if full else "build/bench")
    print(f"\n{report.markdown()}\nReport: {report.write(folder)}")
    return 0


if __name__ == "__main__":  # the processes that are started import this file as well
    sys.exit(main())
