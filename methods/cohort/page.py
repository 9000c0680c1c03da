"""A cohort as a page to look through: a row and a picture for every pair, those that stand out first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from l2rfast.output import written_whole
from l2rfast.viewer.page import NAME, document, number, template

from .summary import FAILED, FINISHED, MEASURES, NOT_DONE, OUTLYING, Measure, Row, measured, middle

PICTURE = "overview.png"
_TITLES = {measure.name: measure.title for measure in MEASURES}


def write_page(path: Path, rows: Sequence[Row], title: str) -> None:
    """Write a page of HTML that needs nothing but the pictures of the pairs, which it has by their places beside it.

    Pairs that failed come first, with why; then the others, those that stand out most first; then those that are not
    done. A click on the head of a column sorts by it, the worst first, where scripts run.

    Args:
        path: in the folder of the study.
        rows: of `methods.cohort.summary.summarised`.
        title: of the page, as text.

    Raises:
        InputError: the file cannot be written.
    """
    measures = measured(rows)
    body = [
        *(f"<p>{escape(line)}</p>" for line in _summary(rows, measures)),
        f'<table class="pairs sortable">\n<thead>\n<tr>{_heads(measures)}</tr>\n</thead>\n<tbody>',
        *(_line(row, measures) for row in _ordered(rows)),
        "</tbody>\n</table>",
    ]
    page = document(title, body, scripts=[template("sort.js")])
    with written_whole(path, links=False) as file:
        # What is not UTF-8 in a name cannot be shown.
        file.write_text(page, encoding="utf-8", errors="replace")


def _summary(rows: Sequence[Row], measures: Sequence[Measure]) -> list[str]:
    """Lines of the whole."""
    counts = Counter(row.status for row in rows)
    parts = [f"{counts[status]} {status}" for status in (FINISHED, FAILED, NOT_DONE) if counts[status]]
    lines = [f"{len(rows)} pair{'s' * (len(rows) != 1)}: {', '.join(parts) or 'none'}."]
    if measures:
        medians = (f"{m.title} {' to '.join(number(middle(rows, column)) for column in m.columns)}" for m in measures)
        lines.append(f"Medians of the finished: {'; '.join(medians)}.")
    if not all(math.isnan(row.outlier) for row in rows):
        lines.append(
            f"Outliers: {sum(row.outlier > OUTLYING for row in rows)}. A pair is one where its worst measure is more "
            f"than {OUTLYING} robust standard deviations worse than the median of the pairs; the column names it."
        )
    return lines


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """As they are to be looked at."""
    ranks = (FAILED, FINISHED, NOT_DONE)
    return sorted(rows, key=lambda row: (ranks.index(row.status), math.isnan(row.outlier), -row.outlier))


def _heads(measures: Sequence[Measure]) -> str:
    """Of the columns; ``data-first`` is the order that has the worst first."""
    heads = [
        '<th scope="col" data-first="ascending">pair</th>',
        '<th scope="col">picture</th>',
        '<th scope="col" data-first="ascending">status</th>',
    ]
    titles = [("outlier", 1), *((measure.title, measure.worse) for measure in measures), ("warnings", 1)]
    heads += [
        f'<th scope="col" class="n" data-first="{"ascending" if worse < 0 else "descending"}">{escape(name)}</th>'
        for name, worse in titles
    ]
    return "".join(heads)


def _line(row: Row, measures: Sequence[Measure]) -> str:
    """The row of a pair."""
    folder, name = escape(quote(f"pairs/{row.id}")), escape(row.id)
    named = name if row.status != FINISHED else f'<a href="{folder}/{NAME}">{name}</a>'
    seen = f'<span class="bad">{escape(row.error)}</span>' if row.error else ""
    if row.status == FINISHED:
        picture = f"{folder}/{PICTURE}"
        seen = f'<a href="{picture}"><img src="{picture}" loading="lazy" alt="{name}, before and after"></a>'
    outlier = "-"
    if not math.isnan(row.outlier):
        marked = ' class="bad"' * (row.outlier > OUTLYING)
        outlier = f"<span{marked}>{number(row.outlier)}</span> <small>{escape(_TITLES[row.outlier_measure])}</small>"
    numbers = [outlier, *(_value(row, measure) for measure in measures)]
    numbers.append("-" if row.warnings is None else str(row.warnings))
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    return (
        f'<tr><th scope="row">{named} <small>{escape(row.fixed)}</small> <small>{escape(row.moving)}</small></th>'
        f"<td>{seen}</td><td>{row.status}</td>{cells}</tr>"
    )


def _value(row: Row, measure: Measure) -> str:
    """After, by which a column is sorted, and before."""
    *before, after = (number(row.value(column)) for column in measure.columns)
    return " ".join([after, *(f"<small>{number} before</small>" for number in before if number != "-")])
