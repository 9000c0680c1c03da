"""``python -m bench.verdict``: how often the verdict of ``l2rfast register`` is right, on pairs whose truth is known.

Most of the generated pairs, and some of the scans, are what the thresholds were chosen on; the others were not looked
at before.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import l2rfast
from l2rfast import InputError
from l2rfast.cli.job import report_of
from l2rfast.cli.report import Report
from l2rfast.cli.verdict import BAD, GOOD, LEVELS, MEASURE
from l2rfast.data.synthetic import Anatomy, anatomies
from l2rfast.io import Volume
from l2rfast.methods.result import Registration

from .machine import OWN, describe, software
from .pairs import SETS
from .report import REPORTS, kept, left_out, rounded, table

NEAR = 2.5  # voxels: mean distance within the body, up to which a generated pair is aligned
# Dice from which scans are taken as aligned: what is worse is seen at once beside those that are.
RIGHT = {"brains": 0.7, "heart-4d": 0.55, "spine": 0.7, "prostate": 0.7, "brain-malf": 0.6}
CHOSEN_ON = ("brains", "heart-4d", "spine", "prostate")
SIZES = ((48, 48, 48), (64, 64, 64), (128, 128))
SEEDS = range(4)
LOOKED_AT = 3  # of the seeds: what the thresholds were chosen on
OTHERS = 50  # added to a seed: another anatomy
FAR = 0.3  # of the width of a scan, by which its header is wrong
EXPLANATION = f"""\
*Aligned* is by the truth: of generated pairs a mean distance within the body of {NEAR} voxels or less, of scans the
least mean Dice of their labels in brackets; another anatomy, and a scan that is mirrored or elsewhere, is not aligned
whatever it looks like. The verdict sees the intensities alone, neither labels nor truth. *Not registered* is the
verdict on what was there before. A *miss* is `good` of what is not aligned, a *false alarm* `bad` of what is."""


@dataclass(frozen=True)
class Outcome:
    """Of a registration: what it is of, whether the thresholds were chosen on it, the truth, and the verdict."""

    kind: str
    name: str
    chosen_on: bool
    aligned: bool
    level: str
    before: float
    after: float
    covered_percent: float


@dataclass(frozen=True)
class Case:
    """A pair to register, and whether a registration of it is right.

    Attributes:
        right: of the registration, or where it began; None where nothing can be.
        options: of `l2rfast.register`.
    """

    kind: str
    name: str
    chosen_on: bool
    fixed: Volume
    moving: Volume
    right: Callable[[Registration], bool] | None
    options: dict[str, Any]


def generated() -> Iterator[Case]:
    """Of every size and contrast: a pair, one of which half is missing, and two anatomies."""
    for size in SIZES:
        for contrasts in (1, 2):
            for seed in SEEDS:
                template, subject = anatomies(2, size, contrasts=contrasts, seed=seed)
                other = anatomies(1, size, contrasts=contrasts, seed=seed + OTHERS)[0]
                name = f"{' x '.join(map(str, size))}, contrasts {contrasts}, seed {seed}"
                fixed, moving, wrong = (Volume(one.image[0, 0], np.eye(4)) for one in (subject, template, other))
                half = size[0] // 2
                begins = np.eye(4)
                begins[0, 3] = half
                halved = Volume(template.image[0, 0, half:].clone(), begins)
                kind = f"generated, {contrasts} contrast{'s' if contrasts > 1 else ''}"
                known = seed < LOOKED_AT
                truth = near(subject)
                yield Case(kind, name, known, fixed, moving, truth, {})
                yield Case(f"{kind}, half of it missing", name, known, fixed, halved, near(subject, half), {})
                yield Case(f"{kind}, of another anatomy", name, known, fixed, wrong, None, {})


def near(subject: Anatomy, begins: int = 0) -> Callable[[Registration], bool]:
    """Whether the places of the body are found that lie in a template without its first slices."""
    body, truth = subject.labels[0, 0] > 0, subject.displacement[0]
    points = body.nonzero()[::97].double()
    there = points + truth[:, body].T[::97].double()
    there[:, 0] -= begins
    points, there = points[there[:, 0] >= 0], there[there[:, 0] >= 0]

    def right(found: Registration) -> bool:
        return float((found.points_in_moving(points) - there).norm(dim=1).mean()) <= NEAR

    return right


def scans(name: str) -> Iterator[Case]:
    """Pairs of a set, as they are, mirrored along the second axis, and with a header that is wrong.

    Raises:
        InputError: a scan is not there.
    """
    for pair, (fixed, moving, score) in SETS[name].pairs():
        known, least = name in CHOSEN_ON, RIGHT[name]

        def right(found: Registration, score: Any = score, least: float = least) -> bool:
            return bool(score(found) >= least)

        mirrored = replace(moving, data=moving.data.flip(1))
        elsewhere = moving.affine.copy()
        elsewhere[:3, 3] += FAR * moving.data.shape[0] * moving.affine[:3, 0]
        moved = replace(moving, affine=elsewhere)
        yield Case(f"{name} ({least})", pair, known, fixed, moving, right, {})
        yield Case(f"{name}, mirrored", pair, known, fixed, mirrored, None, {})
        yield Case(f"{name}, elsewhere, start by the header", pair, known, fixed, moved, right, {"init": "none"})


def outcomes(case: Case) -> Iterator[Outcome]:
    """What becomes of a pair; and of a plain one, what the verdict on it would have been without a registration."""
    found = l2rfast.register(case.fixed, case.moving, **case.options)
    report = reported(found, case)
    yield outcome(case, case.kind, found, report)
    if case.right is not None and not case.options:
        still = replace(found, displacement=torch.zeros_like(found.displacement), inverse=found.displacement * 0)
        yield outcome(case, f"{case.kind.partition(' (')[0]}, not registered", still, reported(still, case))


def reported(found: Registration, case: Case) -> Report:
    """As the command line has it, without labels."""
    pair = tuple(found.warp(case.moving.data, displaced=displaced) for displaced in (False, True))
    covered = found.covered(displaced=False) & found.covered()
    folds = l2rfast.digital_jacobian(found.displacement)[0] <= 0
    return report_of(found, (case.fixed, case.moving), pair, covered, folds, None, None, "")


def outcome(case: Case, kind: str, found: Registration, report: Report) -> Outcome:
    aligned = case.right is not None and case.right(found)
    before, after = report.similarity[MEASURE]
    level = report.verdict.level
    return Outcome(kind, case.name, case.chosen_on, aligned, level, before, after, report.covered_percent)


def paragraphs(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Of its page."""
    yield "# How often the verdict is right"
    yield EXPLANATION
    for title, known in (("On what the thresholds were chosen", True), ("On what was not looked at", False)):
        own = [one for one in outcomes if one.chosen_on == known]
        yield f"## {title}"
        head = ["pairs", "count", "aligned", f"`{MEASURE}`", *(f"{level}, of aligned" for level in LEVELS)]
        head += [*(f"{level}, of others" for level in LEVELS), "misses", "false alarms"]
        kinds = dict.fromkeys(one.kind for one in own)
        rows = [_row(kind, [one for one in own if one.kind == kind]) for kind in kinds]
        yield table(head, [*rows, _row("**all**", own)])


def _row(kind: str, ones: Sequence[Outcome]) -> list[str]:
    right, wrong = (Counter(one.level for one in ones if one.aligned == aligned) for aligned in (True, False))
    values = sorted(one.after for one in ones if one.after == one.after)
    spread = f"{values[0]:.2f} to {values[-1]:.2f}" if values else "-"
    counts = [len(ones), sum(right.values())]
    numbers = [*(right[level] for level in LEVELS), *(wrong[level] for level in LEVELS), wrong[GOOD], right[BAD]]
    return [kind, *map(str, counts), spread, *map(str, numbers)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.verdict", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    found: list[Outcome] = []
    skipped = {}
    for name in ("generated", *RIGHT):
        try:
            for case in generated() if name == "generated" else scans(name):
                for one in outcomes(case):
                    found.append(one)
                    print(f"{one.kind}, {one.name}: {'' if one.aligned else 'not '}aligned, {one.level}", flush=True)
        except InputError as error:
            skipped[name] = str(error)
        record = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "machine": describe(),
            "versions": software(*OWN),
            "outcomes": rounded([asdict(one) for one in found]),
            "skipped": skipped,
        }
        page = kept(arguments.out, "verdict", record, [*paragraphs(found), *left_out(skipped)])
    print(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
