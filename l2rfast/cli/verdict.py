"""What a registration came to, in three sentences: aligned? folds? what to look at?

The thresholds, and how often they are right, are in docs/concepts/6-verdict.md, by ``python -m bench.verdict``.
No measure of intensities proves that two scans are aligned: anatomies of two people can be brought to look alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import Report

GOOD, LOOK, BAD = "good", "look", "bad"
LEVELS = (GOOD, LOOK, BAD)
MEASURE = "correlation ratio"

CLOSE = 0.93  # correlation ratio from which intensities go together closely
LOOSE = 0.5  # below which those of one contrast hardly go together
ALIKE = {"lncc", "ssd"}  # metrics of images of one contrast
LOST = 0.02  # by which a measure from 0 to 1 may be less than before
COVERED, BARELY = 50.0, 10.0  # percent of fixed: from where moving covers enough; below which hardly any
FOLDED = 0.1  # percent of the voxels, by all differences
MISSED = 0.5  # voxels: mean distance from where a place leads there and back
OVERLAP = 0.5  # Dice of a label below which it is named
FARTHER = 1.05  # of the mean distance of landmarks before

Change = tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        level: ``"good"``: no measure speaks against it; ``"look"``: the measures cannot tell; ``"bad"``: one speaks
            against it.
        aligned, folds, look: a sentence each.
    """

    level: str
    aligned: str
    folds: str
    look: str

    @property
    def lines(self) -> tuple[str, str, str]:
        return self.aligned, self.folds, self.look


def judged(report: Report) -> Verdict:
    """What the measures of a registration say."""
    level, aligned = _aligned(report)
    of_folds, folds = _folds(report)
    return Verdict(max(level, of_folds, key=LEVELS.index), aligned, folds, _look(report, level))


def mean_change(changes: Mapping[Any, Change]) -> Change:
    """Of the labels or landmarks for which the measure is defined before and after; NaN where it is for none."""
    defined = [change for change in changes.values() if not any(map(math.isnan, change))]
    if not defined:
        return math.nan, math.nan
    before, after = zip(*defined, strict=True)
    return fmean(before), fmean(after)


def _aligned(report: Report) -> tuple[str, str]:
    before, after = report.similarity.get(MEASURE, (math.nan, math.nan))
    overlap, distance = mean_change(report.dice), mean_change(report.tre)
    covered = f"over the {report.covered_percent:.0f} % of FIXED that MOVING covers"
    metric = report.options.get("metric", "")
    alike = {metric} <= ALIKE if isinstance(metric, str) else set(metric) <= ALIKE
    told = f"correlation ratio {after:.2f}, {before:.2f} before, {covered}"
    against = [
        ("MOVING covers hardly any of FIXED" if report.covered_percent < BARELY else ""),
        ("there is hardly anything to compare" if math.isnan(after) else ""),
        (f"the intensities hardly go together ({told})" if alike and after < LOOSE else ""),
        (f"the intensities go together less than before ({told})" if after < before - LOST else ""),
        (f"labels overlap less than before (Dice {_change(overlap)})" if overlap[1] < overlap[0] - LOST else ""),
        (f"landmarks are farther apart (mm: {_change(distance)})" if distance[1] > FARTHER * distance[0] else ""),
    ]
    if any(against):
        return BAD, f"Aligned? Probably not: {'; '.join(filter(None, against))}."
    more = ""
    if not math.isnan(overlap[1]):
        more += f"; labels overlap by Dice {_change(overlap)}"
    if not math.isnan(distance[1]):
        more += f"; landmarks are {distance[1]:.3g} mm apart ({report.landmarks}), {distance[0]:.3g} before"
    if after >= CLOSE and report.covered_percent >= COVERED:
        return GOOD, f"Aligned? Nothing measured speaks against it: {told}{more}."
    return LOOK, f"Aligned? The measures cannot tell: {told}{more}."


def _folds(report: Report) -> tuple[str, str]:
    missed = f"there and back misses by {report.inverse_residual:.2g} voxels on average"
    folded = report.digital_folding_percent
    if folded > 0:
        level = BAD if folded > FOLDED else LOOK
        return level, f"Folds? {folded:.2g} % of the voxels, where the map is not one to one; {missed}."
    return LOOK if report.inverse_residual > MISSED else GOOD, f"Folds? None: the map is one to one; {missed}."


def _look(report: Report, level: str) -> str:
    places = []
    if report.digital_folding_percent > 0:
        places.append("the folds, which are marked")
    if report.covered_percent < COVERED:
        places.append("the border of MOVING, beyond which nothing is known")
    if poor := {label: now for label, (_, now) in report.dice.items() if now < OVERLAP}:
        worst = min(poor, key=poor.__getitem__)
        places.append(f"label {worst} (Dice {poor[worst]:.2f}), the worst of {len(poor)} below {OVERLAP}")
    if distances := {name: now for name, (_, now) in report.tre.items() if not math.isnan(now)}:
        worst_point = max(distances, key=distances.__getitem__)
        places.append(f"landmark {worst_point} ({distances[worst_point]:.2g} mm)")
    if count := len(report.warnings):
        places.append(f"the {'warning' if count == 1 else f'{count} warnings'} above")
    whole = (
        "whether they are of one anatomy, and lie the same way round" if level == BAD else "outlines and inner borders"
    )
    shown = f"overview.png: {whole} in FIXED and the warped image"
    return f"Look at {'; '.join([shown, *places])}."


def _change(change: Change) -> str:
    return f"{change[1]:.3g}, {change[0]:.3g} before"
