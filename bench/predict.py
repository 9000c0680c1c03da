"""``python -m bench.predict``: how long the GPU kernels should take on several cards, where no GPU is: a prediction.

It writes ``bench/reports/predicted.json``, and as tables ``predicted.md`` beside it. What a kernel does is read from
its code (`bench.work`), what a card can do from its maker's documents (`bench.cards`); the time is that of whatever
takes longest. A card that has a report of ``python -m bench`` stands beside what was predicted for it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import aot
from .cards import CARDS, Card, card_called
from .execution import Memory
from .harness import OURS, TRITON
from .launched import Launch
from .predicted import CASES, Case, Observed, observed
from .report import digits, rounded, table
from .work import Work, work

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "bench" / "reports"
RECORD = REPORTS / "predicted.json"

EXPLANATION = """\
**Nothing here was measured: no GPU has run these kernels.** `python -m bench.predict` compiles what each call would
launch and predicts the time from what the code does and what a card can do by its maker's documents. It is a bound
from below: nothing waits for anything, caches serve all that is read again, clocks are the highest.

*How it is counted.* What float32, float64, conversions to and from it, special functions (reciprocals, roots,
exponentials), and loads and stores do is counted by running the PTX of the first thread of every warp of the middle
block, in Python, with the arguments of that launch: so loops take as many turns, and branches go where, they go on a
GPU. Memory reads as zeros where no launch before (of CUDA's) has written to it: work that depends on data (flat costs
in envelopes, displacements of nothing, gradients that fall on the same voxel) is that of zeros, a guess; additions of
atomics count as bytes only. Products are fused with the sum that they go to as the assembler does, divisions and roots
count as the instructions that they are made of. What is *issued*, of all kinds, is counted in SASS (AMD: in the
assembly), assembled once more without unrolling, of which every loop takes the turns that the same loop of PTX took;
what a turn may skip counts as the part of such code that PTX executed there. Unrolled code issues fewer for counting:
so it is counted a little too high. Callgrind on the host's form of the kernels would count no GPU's instructions, and
nothing of Triton's.

*The time* of a launch is the longest of: memory (the floor, inputs once and results once, and what is known to be moved
besides, shared among launches by what they load and store), float32, float64 with its conversions, special functions,
loads and stores through shared memory and the first-level cache, and issue. Launches add up. What PyTorch itself does
between them (small sums), launching, and waiting for memory where few warps are resident are not in it."""


COUNTING = (
    "bits.py",
    "execution.py",
    "launched.py",
    "predicted.py",
    "ptx.py",
    "sass.py",
    "work.py",
    "launches/common/launch.cuh",
)


def digest() -> str:
    """Of what is compiled, see `bench.aot`, and of how it is counted: the rates of cards are applied to the record."""
    files = [ROOT / "bench" / name for name in COUNTING]
    return hashlib.sha256("\0".join([aot.digest(), *(file.read_text() for file in files)]).encode()).hexdigest()


# --- What is found


@dataclass(frozen=True)
class Prediction:
    """Of a case, by one backend, on GPUs of one architecture.

    Attributes:
        case, backend, target: of what.
        results: numbers in the largest result, which figures are per.
        floor: the bytes that must move; besides: what the kernels are known to move more.
        memory: the most bytes that are allocated at once, results included; of CUDA's only.
        kernels: what each does in all its launches, by name.
    """

    case: str
    backend: str
    target: str
    results: int
    floor: int
    besides: int
    memory: int | None
    kernels: dict[str, Work]

    @property
    def unmatched(self) -> list[str]:
        """The kernels whose loops are not those of their PTX."""
        return [name for name, done in self.kernels.items() if not done.matched]

    def seconds(self, card: Card) -> tuple[float, str]:
        """Of the case, and what takes most of it."""
        through = sum(done.far for done in self.kernels.values())
        spent: dict[str, float] = {}
        for done in self.kernels.values():
            moved = (self.floor + self.besides) * (done.far / through if through else 1)
            limits = {"memory": moved / card.bandwidth, **limited(done, card)}
            slowest = max(limits, key=lambda name: limits[name])
            spent[slowest] = spent.get(slowest, 0) + limits[slowest]
        return sum(spent.values()), max(spent, key=lambda name: spent[name])


def limited(done: Work, card: Card) -> dict[str, float]:
    """Seconds that each part of the multiprocessors takes at least."""
    has, cycles = card.architecture, card.multiprocessors * card.gigahertz * 1e9
    return {
        "float32": done.float32 / has.float32 / cycles,
        "float64": (done.float64 / has.float64 + done.converted / has.converted) / cycles,
        "special functions": done.special / has.special / cycles,
        "loads and stores": (done.near + done.far) / has.banks / cycles,
        "issue": done.issued / has.issued / cycles,
    }


def predictions(cases: Iterable[Case], targets: Sequence[str]) -> list[Prediction]:
    """Of every case by every backend that has it, on every target that the backend is for."""
    found = []
    for case in cases:
        for backend in case.backends():
            known: Observed | None = None  # on the first target, one of NVIDIA's
            memory = Memory() if backend == "cuda" else None  # of Triton's launches the addresses are made up
            for target in targets:
                # Of AMD's cards for computing float64 is fast: sums in pairs never run there.
                if not target.startswith("sm") and (backend == "cuda" or case.sums == "pairs"):
                    continue
                of = known if backend == "cuda" and known else observed(case, backend, target)
                known = known or of
                like = [None] * len(of.launches) if target.startswith("sm") else _same(of, known, case, target)
                done: dict[str, Work] = {}
                for launch, same in zip(of.launches, like, strict=True):
                    one = work(launch, target, same, memory)
                    done[launch.kernel] = done[launch.kernel] + one if launch.kernel in done else one
                size = of.results, of.floor, case.besides.get(backend, 0), of.memory
                found.append(Prediction(case.name, backend, target, *size, done))
            print(f"{case.name}: {backend}", flush=True)
    return found


def _same(of: Observed, known: Observed, case: Case, target: str) -> list[Launch]:
    """The launches on NVIDIA's of which those on another target are."""
    here, there = ([f"{launch.times} of {launch.kernel}" for launch in one.launches] for one in (of, known))
    if len(here) != len(there):
        raise ValueError(f"{case.name} on {target} launches {', '.join(here)}, but on NVIDIA's {', '.join(there)}")
    return list(known.launches)


# --- The record


@dataclass(frozen=True)
class Record:
    """What was predicted, of which sources and compilers."""

    digest: str
    compilers: dict[str, str]
    predictions: list[Prediction]

    @classmethod
    def read(cls, file: Path = RECORD) -> Record:
        content = json.loads(file.read_text())
        found = []
        for entry in content["predictions"]:
            entry.pop("seconds")
            kernels = {name: Work(**done) for name, done in entry.pop("kernels").items()}
            found.append(Prediction(**entry, kernels=kernels))
        return cls(content["digest"], content["compilers"], found)

    def write(self, file: Path = RECORD) -> None:
        content = asdict(self)
        for entry, prediction in zip(content["predictions"], self.predictions, strict=True):
            cards = [card for card in CARDS if card.target == prediction.target]
            entry["seconds"] = {card.name: prediction.seconds(card) for card in cards}
        file.write_text(json.dumps(rounded(content), indent=1) + "\n")
        file.with_suffix(".md").write_text(Record.read(file).markdown(file.parent))

    def markdown(self, reports: Path) -> str:
        """The page, with what was measured where a card has a report in that folder."""
        unmatched = sorted({(p.target, name) for p in self.predictions for name in p.unmatched})
        parts = [
            "# Predicted times on GPUs",
            EXPLANATION,
            "## Times",
            f"In ms, and what takes most of it. {_said(measured(reports))}",
            self._times(measured(reports)),
            "Of the local NCC of 2 items of 16 channels fused-lncc 0.1.0 publishes 24.5 ms and 1.07 GB on an A40.",
            "## Kernels",
            "For each number of the largest result: instructions of threads, bytes through shared memory and to and "
            "from global memory (through the caches); and in the compiled code instructions of float32, of float64 and "
            "of all kinds, times 32 (gfx942: 64); registers of a thread, and the part of the warps that can be "
            "resident which are.",
            self._kernels(),
            "## Loops that are not understood",
            "Their compiled code has other loops than their PTX, or jumps by a table: what is issued is what PTX has. "
            + ("; ".join(f"{name} on {target}" for target, name in unmatched) or "None."),
            "## Cards",
            table(
                ["card", "target", "multiprocessors", "GHz", "GB/s", "source"],
                [
                    [c.name, c.target, str(c.multiprocessors), f"{c.gigahertz:g}", f"{c.bandwidth / 1e9:.0f}", c.source]
                    for c in CARDS
                ],
            ),
            table(["compiler", "version"], [list(item) for item in self.compilers.items()]),
        ]
        return "\n\n".join(parts) + "\n"

    def _times(self, reports: dict[str, dict[str, dict[str, Any]]]) -> str:
        rows = []
        of = {(p.case, p.backend, p.target): p for p in self.predictions}
        for case, backend in dict.fromkeys((p.case, p.backend) for p in self.predictions):
            some = next(p for p in self.predictions if (p.case, p.backend) == (case, backend))
            row = [case, backend, f"{some.floor / 1e6:.1f} + {some.besides / 1e6:.1f}"]
            row.append("-" if some.memory is None else f"{some.memory / 1e9:.2f}")
            for card in CARDS:
                prediction = of.get((case, backend, card.target))
                row.append(_cell(prediction, card, reports.get(card.name, {})))
            rows.append(row)
        head = ["case", "backend", "MB: floor + besides", "GB allocated", *(card.name for card in CARDS)]
        return table(head, rows)

    def _kernels(self) -> str:
        rows = []
        for p in self.predictions:
            for name, done in p.kernels.items():
                lanes = 32 if p.target.startswith("sm") else 64
                each = [done.float32, done.float64, done.converted, done.special, done.near, done.far]
                each += [lanes * issued for issued in (done.issued32, done.issued64, done.issued)]
                figures = [_figure(value / p.results) for value in each]
                kernel = name.replace("|", "\\|")
                rows.append(
                    [p.case, p.backend, kernel, p.target, *figures, str(done.registers), f"{done.occupancy:.0%}"]
                )
        head = ["case", "backend", "kernel", "target", "float32", "float64", "conversions", "special", "shared, bytes"]
        return table([*head, "global, bytes", "compiled: float32", "float64", "all", "registers", "resident"], rows)


def _figure(value: float) -> str:
    return "0" if value == 0 else digits(value)


def measured(reports: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What reports of cards lie there: cases by the card's name and theirs."""
    found = {}
    for file in sorted(reports.glob("*.json")):
        content = json.loads(file.read_text())
        card = card_called(content.get("machine", {}).get("gpu", "")) if "cases" in content else None
        if card:
            found[card.name] = {case["name"]: case for case in content["cases"]}
    return found


def _said(reports: dict[str, Any]) -> str:
    if not reports:
        return "No card has been measured."
    return f"Measured: {', '.join(reports)}; there the second time, and by how much of it the prediction is off."


def _cell(prediction: Prediction | None, card: Card, cases: dict[str, dict[str, Any]]) -> str:
    if prediction is None:
        return "-"
    seconds, slowest = prediction.seconds(card)
    text = f"{digits(1e3 * seconds)} ({slowest})"
    contestant = OURS if prediction.backend == "cuda" else TRITON
    name = prediction.case.partition(";")[0]  # without the form that sums are kept in
    result = cases.get(name, {}).get("results", {}).get(contestant, {})
    if median := result.get("median"):
        text += f"; measured {digits(1e3 * median)}, off by {seconds / median - 1:+.0%}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.predict", description=__doc__.partition("\n")[0])
    parser.add_argument("--page", action="store_true", help="compile nothing: apply the cards to the record anew")
    if parser.parse_args(argv).page:
        Record.read().write()
    else:
        of_what = digest(), aot.versions()
        Record(*of_what, predictions(CASES, list(aot.TARGETS))).write()
    print(RECORD.with_suffix(".md"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
