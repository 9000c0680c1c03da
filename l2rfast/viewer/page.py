"""Pages of HTML that need nothing but themselves: no address of another machine is ever asked for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

NAME = "report.html"
_FOLDER = Path(__file__).parent
_NUMBER, _TEXT = ' class="n"', ' class="text"'
_FIELD = re.compile(r"\{\{(\w+)\}\}")


def template(name: str) -> str:
    """A file beside this one."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def filled(text: str, **fields: str) -> str:
    """A template with its ``{{fields}}``, each of which is HTML already."""
    return _FIELD.sub(lambda found: fields[found[1]], text)


def document(
    title: str, body: Iterable[str], *, scripts: Sequence[str] = (), code: Sequence[str] = (), connect: bool = False
) -> str:
    """A whole page.

    A policy in it tells browsers to load nothing from elsewhere, and to run these scripts alone, which they know by
    their sha256: what else gets into a page by a fault is not run.

    Args:
        title: as text.
        body: HTML.
        scripts: in the page, behind the body.
        code: further scripts, which these add.
        connect: they may ask for what lies beside the page.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (*scripts, *code))
    allowed, asked = hashes or "'none'", "'self'" if connect else "'none'"
    policy = [
        "default-src 'none'",
        "img-src 'self' file: data: blob:",
        "style-src 'unsafe-inline'",
        f"script-src {allowed}",
        f"connect-src {asked}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return filled(
        template("page.html"),
        policy="; ".join(policy),
        title=escape(title),
        style=template("page.css"),
        body="\n".join(body),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int | None = None, sort: bool = False) -> str:
    """Of cells as text, the first of each row its head.

    Args:
        numbers: from which column on there are numbers; none when None.
        sort: whether a click on the head of a column sorts by it.
    """
    first = len(head) if numbers is None else numbers
    heads = []
    for column, name in enumerate(head):
        order = f' data-first="{"descending" if column >= first else "ascending"}"' if sort else ""
        heads.append(f'<th scope="col"{_NUMBER * (column >= first)}{order}>{escape(name)}</th>')
    lines = (
        [f'<th scope="row">{escape(name)}</th>']
        + [f"<td{_NUMBER if column >= first else _TEXT}>{escape(text)}</td>" for column, text in enumerate(cells, 1)]
        for name, *cells in rows
    )
    return _table("sortable" if sort else "plain", heads, map("".join, lines))


def bars(values: Sequence[tuple[float, str]], most: float) -> str:
    """Lines as long as values are, one above the other, as SVG.

    Args:
        values: each with its class.
        most: what fills the width.
    """
    high = 14 / len(values)
    lines = []
    for place, (value, kind) in enumerate(values):
        width = 100 * min(max(value / most, 0), 1) if math.isfinite(value) and most > 0 else 0
        lines.append(f'<rect class="{kind}" y="{place * high:.4g}" width="{width:.4g}" height="{high - 1:.4g}"/>')
    return f'<svg viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">{"".join(lines)}</svg>'


def chart(head: Sequence[str], rows: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """A table whose second column is drawn: of each row its name, the drawing, and further cells as text. Its head is
    HTML."""
    heads = [f'<th scope="col"{_NUMBER * (column > 1)}>{name}</th>' for column, name in enumerate(head)]
    lines = (
        f'<th scope="row">{escape(name)}</th><td class="bar">{drawn}</td>'
        + "".join(f"<td{_NUMBER}>{escape(text)}</td>" for text in cells)
        for name, drawn, cells in rows
    )
    return _table("chart", heads, lines)


def _table(kind: str, heads: Iterable[str], lines: Iterable[str]) -> str:
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    head = f"<thead><tr>{''.join(heads)}</tr></thead>"
    return f'<div class="scroll"><table class="{kind}">\n{head}\n<tbody>\n{rows}\n</tbody></table></div>'


def tiles(values: Iterable[tuple[str, str, str]]) -> str:
    """Numbers to be seen first: of each what it is, the number, and what is said below it; as text."""
    each = (
        f'<div class="tile"><small>{escape(name)}</small><b>{escape(value)}</b><small>{escape(more)}</small></div>'
        for name, value, more in values
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def picture(png: bytes | str, text: str) -> str:
    """A PNG as a part of the page, or by its name beside it, with what is said where it cannot be seen."""
    place = escape(png) if isinstance(png, str) else f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img class="picture" alt="{escape(text)}" src="{place}">'


def details(title: str, *parts: str) -> str:
    """What is seen after a click on its title."""
    inside = "\n".join(parts)
    return f"<details><summary>{escape(title)}</summary>\n{inside}\n</details>"


def data(name: str, value: Mapping[str, Any]) -> str:
    """JSON for scripts: nothing in it can end the element."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def packed(name: str, value: bytes) -> str:
    """Bytes for scripts, in base64."""
    return f'<script type="text/plain" id="{name}">{base64.b64encode(value).decode()}</script>'


def number(value: float) -> str:
    """With four digits; "-" where it is not defined."""
    return f"{value + 0.0:.4g}" if math.isfinite(value) else "-"  # never -0


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
