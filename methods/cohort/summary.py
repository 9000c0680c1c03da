"""What became of each pair of a cohort, and which stand out, as rows of a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from l2rfast._json import parsed
from l2rfast.errors import InputError
from l2rfast.output import written_whole

from .listed import Listed
from .study import REPORT, Study

FINISHED, FAILED, NOT_DONE = "finished", "failed", "not done"
FEWEST = 5  # pairs of which one can be said to stand out
OUTLYING = 3.5  # robust standard deviations: Iglewicz & Hoaglin's


@dataclass(frozen=True)
class Measure:
    """A number of ``report.json``.

    Attributes:
        name: its column in the table, or the first part of two.
        title: for people, with the unit.
        place: the keys that lead to it.
        worse: 1 where pairs that have more of it are worse, -1 where those that have less; 0: neither is said.
        changes: whether it is there before and after.
    """

    name: str
    title: str
    place: tuple[str, ...]
    worse: int
    changes: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"{self.name}_before", f"{self.name}_after") if self.changes else (self.name,)

    def read(self, report: Any) -> dict[str, float]:
        """What a report says, by column; NaN where it is not defined.

        Raises:
            KeyError, TypeError, ValueError: the report is another one.
        """
        found = report
        for key in self.place:
            if found == {} and found is not report:  # without labels, or landmarks
                return dict.fromkeys(self.columns, math.nan)
            found = found[key]
        numbers = found if self.changes else [found]
        return dict(zip(self.columns, map(_number, numbers), strict=True))


MEASURES = (
    Measure("correlation", "correlation", ("similarity", "correlation"), -1, changes=True),
    Measure("mse", "MSE", ("similarity", "MSE"), 0, changes=True),
    Measure("dice", "Dice", ("dice", "mean"), -1, changes=True),
    Measure("hd95", "HD95, mm", ("hd95", "mean"), 1, changes=True),
    Measure("tre", "TRE, mm", ("tre", "mean"), 1, changes=True),
    Measure("folding_percent", "folds, %", ("folding_percent",), 1),
    Measure("digital_folding_percent", "digital folds, %", ("digital_folding_percent",), 1),
    Measure("log_jacobian_std", "SD of log Jacobian", ("log_jacobian_std",), 1),
    Measure("inverse_residual", "inverse residual, voxels", ("inverse_residual",), 1),
)


@dataclass(frozen=True)
class Row:
    """A pair.

    Attributes:
        id: as it is listed.
        status: `FINISHED`, `FAILED` or `NOT_DONE`.
        error: why it failed, in one line; empty otherwise.
        fixed, moving: the files; those of several contrasts are parted by semicolons.
        values: of the measures, by column; NaN where undefined. Empty where the pair is not finished.
        warnings: how many the registration gave; None where the pair is not finished.
        outlier: how far it stands out, in robust standard deviations, by the measure that is worst beside other pairs';
            below 0 where all are better than the middle. NaN where nothing can be said.
        outlier_measure: the name of that measure, or empty.
    """

    id: str
    status: str
    error: str
    fixed: str
    moving: str
    values: Mapping[str, float] = field(default_factory=dict)
    warnings: int | None = None
    outlier: float = math.nan
    outlier_measure: str = ""

    def value(self, column: str) -> float:
        return self.values.get(column, math.nan)


def summarised(study: Study, pairs: Iterable[Listed]) -> list[Row]:
    """A row for every pair, in their order.

    A pair whose ``report.json`` is damaged, or another version's, has failed; its row says why.
    """
    return _compared([_row(study, pair) for pair in pairs])


def measured(rows: Sequence[Row]) -> list[Measure]:
    """The measures that any of the pairs has."""
    return [measure for measure in MEASURES if any(_known(rows, column) for column in measure.columns)]


def middle(rows: Sequence[Row], column: str) -> float:
    """The median of a measure over the pairs that have it; NaN where none has."""
    return median(_known(rows, column) or [math.nan])


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a line for every pair, in their order: the same bytes whenever, and by whomever, they were registered.

    Columns that no pair has anything for are left out, but for the first four; numbers have six significant digits.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [
        {
            "id": row.id,
            "status": row.status,
            "fixed": row.fixed,
            "moving": row.moving,
            "outlier": _text(row.outlier),
            "outlier_measure": row.outlier_measure,
            **{column: _text(row.value(column)) for measure in MEASURES for column in measure.columns},
            "warnings": "" if row.warnings is None else str(row.warnings),
            "error": row.error,
        }
        for row in rows
    ]
    columns = ["id", "status", "fixed", "moving"]
    others = ["outlier", "outlier_measure", *(c for m in MEASURES for c in m.columns), "warnings", "error"]
    columns += [name for name in others if any(line[name] for line in lines)]
    with (
        written_whole(path, links=False) as file,
        file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _row(study: Study, pair: Listed) -> Row:
    """A pair by itself."""
    fixed, moving = ("; ".join(pair.options.get(name, ())) for name in ("fixed", "moving"))
    if study.finished(pair.id):
        try:
            return Row(pair.id, FINISHED, "", fixed, moving, *_read(study.pair(pair.id) / REPORT))
        except InputError as problem:
            return Row(pair.id, FAILED, str(problem), fixed, moving)
    error = study.error(pair.id)
    if error is None:
        return Row(pair.id, NOT_DONE, "", fixed, moving)
    return Row(pair.id, FAILED, " ".join(error.split()), fixed, moving)


def _read(file: Path) -> tuple[dict[str, float], int]:
    """The measures of a report, by column, and the number of its warnings.

    Raises:
        InputError: it is damaged, or another version's.
    """
    try:
        report = parsed(file.read_text(encoding="utf-8"), parse_int=float)
    except (OSError, ValueError) as problem:
        raise InputError(f"{REPORT}: cannot be read ({problem}); without the file the pair is done again") from problem
    try:
        values = {column: value for measure in MEASURES for column, value in measure.read(report).items()}
        return values, len(report["warnings"])
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(
            f"{REPORT}: not one that this version of l2rfast writes; without the file the pair is done again"
        ) from problem


def _compared(rows: list[Row]) -> list[Row]:
    """The same rows, with how far each stands out."""
    off = {m.name: [m.worse * z for z in _deviations(rows, m.columns[-1])] for m in MEASURES if m.worse}
    found = []
    for number, row in enumerate(rows):
        known = {name: far[number] for name, far in off.items() if not math.isnan(far[number])}
        worst = max(known, key=known.__getitem__, default="")
        found.append(replace(row, outlier=known.get(worst, math.nan), outlier_measure=worst))
    return found


def _deviations(rows: Sequence[Row], column: str) -> list[float]:
    """How far each is from the median, in robust standard deviations (Iglewicz & Hoaglin 1993, "modified z-score").

    The median absolute deviation is 0 where more than half of the pairs agree, as when few fold. The mean absolute
    deviation takes its place then, as in IBM SPSS; both are scaled so as to be the standard deviation of a normal
    distribution. All are NaN where fewer than `FEWEST` have the measure.
    """
    known = _known(rows, column)
    if len(known) < FEWEST:
        return [math.nan] * len(rows)
    center = median(known)
    away = [abs(value - center) for value in known]
    spread = median(away) / 0.6745 or fmean(away) * math.sqrt(math.pi / 2)
    return [(row.value(column) - center) / (spread or 1.0) for row in rows]


def _number(value: Any) -> float:
    """Of JSON, where null is NaN.

    Raises:
        TypeError, ValueError: it is none.
    """
    if value is None:
        return math.nan
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _known(rows: Sequence[Row], column: str) -> list[float]:
    return [value for row in rows if not math.isnan(value := row.value(column))]


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value + 0.0:.6g}"  # never -0
