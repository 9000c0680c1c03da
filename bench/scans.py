"""``python -m bench.scans``: registers pairs of many kinds, whose right result is known, and writes the report.

Every registration is in a process of its own. What an earlier run measured stays in the report: only what is missing,
or was timed beside other work, is measured, or what ``--only`` names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from l2rfast import InputError, metrics
from l2rfast.io import Volume
from l2rfast.methods.initial import GIVEN, Initial
from l2rfast.methods.result import Registration

from . import machine, runs
from .pairs import SETS, Set
from .report import digits, left_out, rounded, table
from .runs import BUSY, Taken
from .tools import ACCURATE, DEFAULT, FAST, GREEDY_AFFINE, LEARNED, MIND, MUTUAL, Fields

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "bench" / "scans.npz"  # the fields of the last
EXPLANATION = """\
The presets have no options, unless said. *Before* is by the headers alone, *start* after the map of the world that the
registration began with. All are means over the pairs of a set, and *worst* is the pair that came off worst. *Folded* is
the percentage of the voxels where the map on the grid is no digital diffeomorphism, the larger of both directions, and
the *inverse residual* the mean distance in voxels from where one after the other leads. Seconds are of the call alone,
the mean over the pairs; those of one *processor* can be compared. The machine below is that of the last run."""


@dataclass(frozen=True)
class Result:
    """Of a pair: its score before, at the start and at the end, both fields, and what it took."""

    before: float
    start: float
    score: float
    folded_percent: float
    inverse_residual: float | None
    taken: Taken


@dataclass
class Survey:
    """Results by set, method and pair."""

    date: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sets: dict[str, dict[str, dict[str, Result]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def restored(cls, content: dict[str, Any]) -> Survey:
        """From the JSON of a report."""
        sets = {
            name: {
                method: {pair: Result(**{**one, "taken": Taken(**one["taken"])}) for pair, one in results.items()}
                for method, results in methods.items()
            }
            for name, methods in content["sets"].items()
        }
        return cls(content["date"], content["machine"], content["versions"], sets, content["skipped"])

    def lacks(self, name: str, method: str) -> bool:
        """Whether a set was not measured by a method, or beside other work."""
        results = self.sets.get(name, {}).get(method, {})
        return not results or any(one.taken.others > BUSY for one in results.values())

    def markdown(self) -> str:
        head = ["set", "method", "pairs", "measure", "before", "start", "result", "worst", "folded, %"]
        head += ["inverse residual", "seconds", "CPU seconds", "processor"]
        rows = [
            row(name, method, results) for name, methods in self.sets.items() for method, results in methods.items()
        ]
        parts = ["# Registration of scans of many kinds", table(head, rows)]
        waiting = [
            key
            for name, chosen in SETS.items()
            for method in methods_of(name, chosen)
            if method not in self.sets.get(name, {}) and (key := f"{name}, {method}") not in self.skipped
        ]
        every = [one.taken for methods in self.sets.values() for r in methods.values() for one in r.values()]
        if any(taken.others > BUSY for taken in every):
            parts.append("\\* timed while others kept up to so many processors busy, in brackets: not to be compared.")
        parts += [
            EXPLANATION,
            "\n".join(f"- {name}: {chosen.described}." for name, chosen in SETS.items()),
            *([f"Not measured yet: {'; '.join(waiting)}."] if waiting else []),
            *left_out(self.skipped),
            table(["machine", ""], [[name, str(value)] for name, value in self.machine.items()]),
            table(["software", "version"], [list(item) for item in self.versions.items()]),
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> Path:
        """``scans.json`` and ``scans.md``; the second's path."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scans.json").write_text(json.dumps(rounded(asdict(self)), indent=1, allow_nan=False) + "\n")
        (folder / "scans.md").write_text(self.markdown())
        return folder / "scans.md"


def row(name: str, method: str, results: dict[str, Result]) -> list[str]:
    """The cells of a set and a method, in the order of the report's table."""
    ones, chosen = list(results.values()), SETS[name]
    worst = (max if chosen.better == "less" else min)(one.score for one in ones)
    residuals = [one.inverse_residual for one in ones if one.inverse_residual is not None]
    busy = max(one.taken.others for one in ones)
    seconds = digits(fmean(one.taken.seconds for one in ones))
    return [
        name,
        method,
        str(len(ones)),
        chosen.measure,
        *(_score(fmean(getattr(one, figure) for one in ones)) for figure in ("before", "start", "score")),
        _score(worst) if len(ones) > 1 else "",
        f"{max(one.folded_percent for one in ones):.4f}",
        f"{max(residuals):.4f}" if residuals else "-",
        f"{seconds}\\* ({busy:.1f})" if busy > BUSY else seconds,
        digits(fmean(one.taken.cpu_seconds for one in ones)),
        "; ".join(sorted({one.taken.processor for one in ones})),
    ]


def _score(value: float) -> str:
    return f"{value:.4f}" if value < 1 else digits(value)


def methods_of(name: str, chosen: Set) -> list[str]:
    """Every preset; of volumes the network that is there; of two contrasts also the metrics for them; another tool
    where heads do not overlap."""
    methods = [FAST, DEFAULT, ACCURATE, *([] if chosen.flat else [LEARNED])]
    if chosen.contrasts:
        methods += [MIND, MUTUAL]
    return [*methods, GREEDY_AFFINE] if name == "brain-malf" else methods


def registration(fixed: Volume, moving: Volume, found: Fields) -> Registration:
    """What was found, as ours is."""
    initial = Initial(GIVEN.kind, GIVEN.why, found.matrix)
    inverse = torch.zeros_like(found.displacement) if found.inverse is None else found.inverse
    return Registration(found.displacement, inverse, fixed, initial.moved(moving), {}, {}, initial=initial)


def measured(name: str, method: str, threads: int) -> dict[str, Result]:
    """Every pair of a set by a method.

    Raises:
        ImportError: its package is absent.
        InputError: a scan is not there, or the method refuses it.
    """
    results = {}
    for pair, (fixed, moving, score) in SETS[name].pairs():
        taken = runs.run(method, fixed, moving, threads, KEPT)
        found = runs.load(KEPT)
        nothing = torch.zeros_like(found.displacement)
        before, start = (
            score(registration(fixed, moving, Fields(nothing, nothing, matrix))) for matrix in (np.eye(4), found.matrix)
        )
        last = registration(fixed, moving, found)
        fields = [found.displacement, *([] if found.inverse is None else [found.inverse])]
        folded = max(100 * float(metrics.digital_folding_fraction(one)) for one in fields)
        residual = None if found.inverse is None else last.inverse_residual
        results[pair] = Result(before, start, score(last), folded, residual, taken)
        print(f"{name}, {pair}, {method}: {before:.4f} -> {start:.4f} -> {results[pair].score:.4f}", flush=True)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scans", description=__doc__)
    parser.add_argument("--only", action="append", choices=SETS, help="measure this set; can be given several times")
    parser.add_argument("--method", action="append", help="measure by this alone, anew; can be given several times")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "reports", help="folder of the report")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    file = arguments.out / "scans.json"
    survey = Survey.restored(json.loads(file.read_text())) if file.exists() else Survey()
    survey.date = datetime.now(UTC).strftime("%Y-%m-%d")
    survey.machine, survey.versions = machine.describe(), runs.versions(survey.versions)
    good = True
    for name in arguments.only or SETS:
        for method in methods_of(name, SETS[name]):
            asked = method in arguments.method if arguments.method else arguments.only or survey.lacks(name, method)
            if asked:
                good = _attempt(survey, name, method, arguments.threads) and good
                survey.write(arguments.out)
    print(f"\n{survey.markdown()}\nReport: {survey.write(arguments.out)}")
    return 0 if good else 1


def _attempt(survey: Survey, name: str, method: str, threads: int) -> bool:
    """Measure, or say why not; whether ours could."""
    key = f"{name}, {method}"
    try:
        results = measured(name, method, threads)
    except (ImportError, InputError, OSError, RuntimeError) as error:
        lines = str(error).splitlines() or [""]
        survey.skipped[key] = lines[0]
        print(f"{key}: skipped ({lines[0]})", flush=True)
        return isinstance(error, ImportError)
    survey.skipped.pop(key, None)
    known = survey.sets.setdefault(name, {}) | {method: results}
    survey.sets[name] = {one: known[one] for one in methods_of(name, SETS[name]) if one in known}
    survey.sets = {one: survey.sets[one] for one in SETS if one in survey.sets}
    return True


if __name__ == "__main__":  # the processes that are started import this file as well
    sys.exit(main())
