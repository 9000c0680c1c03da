"""A cohort as a page to look through: a row and a picture for every pair, those that stand out first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from l2rfast.output import written_whole

from .summary import FAILED, FINISHED, MEASURES, NOT_DONE, OUTLYING, Measure, Row, measured, middle

PICTURE = "overview.png"
_TITLES = {measure.name: measure.title for measure in MEASURES}

# Rows are grids with columns of one width, so that a browser can lay out those in view alone, of thousands.
_STYLE = """
:root { color-scheme: light dark; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; } }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p { margin: 0 0 .5rem; max-width: 80rem; }
table, thead, tbody { display: block; }
table { margin-top: 1rem; width: max-content; }
tr { display: grid; grid: auto / 16rem 22rem 5rem; grid-auto-columns: 6.5rem; border-bottom: 1px solid #8883; }
tbody tr { content-visibility: auto; contain-intrinsic-size: auto 12rem; }
thead { position: sticky; top: 0; background: Canvas; }
thead th { align-self: end; }
th, td { grid-row: 1; padding: .4rem .5rem; text-align: left; overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
small { display: block; font-weight: normal; opacity: .75; }
img { display: block; width: 100%; height: 11rem; object-fit: contain; object-position: left top; }
button { font: inherit; text-align: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
button:hover { text-decoration: underline; }
[aria-sort=ascending] button::after { content: " \\25b2"; }
[aria-sort=descending] button::after { content: " \\25bc"; }
.bad { color: var(--bad); font-weight: bold; }
"""

# Headers become buttons here, so that without scripts there are none that do nothing.
_SCRIPT = """
const table = document.querySelector("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const words = new Intl.Collator("en", { numeric: true });
function sort(head) {
  const column = heads.indexOf(head), first = head.dataset.first, numbers = head.className == "n";
  const order = head.getAttribute("aria-sort") != first ? first : first == "ascending" ? "descending" : "ascending";
  const sign = order == "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => {
    const text = row.cells[column].textContent;
    return [numbers ? parseFloat(text) : text, row];
  });
  keyed.sort(([a], [b]) => numbers ? isNaN(a) - isNaN(b) || sign * (a - b) : sign * words.compare(a, b));
  for (const [, row] of keyed) body.append(row);
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
}
for (const head of heads.filter((each) => each.dataset.first)) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}
"""


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
    page = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in _summary(rows, measures)),
        f"<table>\n<thead>\n<tr>{_heads(measures)}</tr>\n</thead>\n<tbody>",
        *(_line(row, measures) for row in _ordered(rows)),
        f"</tbody>\n</table>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n",
    ]
    with written_whole(path) as file:
        # What is not UTF-8 in a name cannot be shown.
        file.write_text("\n".join(page), encoding="utf-8", errors="replace")


def _summary(rows: Sequence[Row], measures: Sequence[Measure]) -> list[str]:
    """Lines of the whole."""
    counts = Counter(row.status for row in rows)
    parts = [f"{counts[status]} {status}" for status in (FINISHED, FAILED, NOT_DONE) if counts[status]]
    lines = [f"{len(rows)} pair{'s' * (len(rows) != 1)}: {', '.join(parts) or 'none'}."]
    if measures:
        medians = (f"{m.title} {' to '.join(_number(middle(rows, column)) for column in m.columns)}" for m in measures)
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
    named = name if row.status != FINISHED else f'<a href="{folder}/">{name}</a>'
    seen = f'<span class="bad">{escape(row.error)}</span>' if row.error else ""
    if row.status == FINISHED:
        picture = f"{folder}/{PICTURE}"
        seen = f'<a href="{picture}"><img src="{picture}" loading="lazy" alt="{name}, before and after"></a>'
    outlier = "-"
    if not math.isnan(row.outlier):
        marked = ' class="bad"' * (row.outlier > OUTLYING)
        outlier = f"<span{marked}>{_number(row.outlier)}</span> <small>{escape(_TITLES[row.outlier_measure])}</small>"
    numbers = [outlier, *(_value(row, measure) for measure in measures)]
    numbers.append("-" if row.warnings is None else str(row.warnings))
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    return (
        f'<tr><th scope="row">{named} <small>{escape(row.fixed)}</small> <small>{escape(row.moving)}</small></th>'
        f"<td>{seen}</td><td>{row.status}</td>{cells}</tr>"
    )


def _value(row: Row, measure: Measure) -> str:
    """After, by which a column is sorted, and before."""
    *before, after = (_number(row.value(column)) for column in measure.columns)
    return " ".join([after, *(f"<small>{number} before</small>" for number in before if number != "-")])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value + 0.0:.4g}"  # never -0
