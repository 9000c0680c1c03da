"""Points in a table of comma-separated values; everything but their numbers stays, byte for byte.

- With a line of column names: ``x``, ``y`` and ``z``, or ``x`` and ``y`` alone, in any order and any case of letters;
  a column ``label`` or ``name`` has the names.
- Without one: lines of numbers alone, one for each axis, as Learn2Reg has them; ``#`` begins a comment.

Nothing in such a file says in which system they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .stored import Format, Stored, replaced

AXES = ("x", "y", "z")
# A cell, which may be quoted and then hold commas and ends of lines, and what ends it.
_CELL = re.compile(r'([ \t]*"[^"]*(?:""[^"]*)*"[^,\r\n]*|[^,\r\n]*)(,|\r\n|\n|\r|\Z)')
_COMMENT = re.compile(r"[ \t]*#[^\r\n]*(?:\r\n|\n|\r|\Z)")


class Cell(NamedTuple):
    """Text of a table, without spaces and quotation marks around it, and where that is."""

    text: str
    begin: int
    end: int


class Table(NamedTuple):
    """The columns of a table that have points, or all of one without names."""

    text: str
    columns: list[str]
    rows: list[list[Cell]]

    def points(self) -> list[list[Cell]]:
        """The cells of every row that have coordinates.

        Raises:
            ValueError: a row has other columns than the first, or there are none for points.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(self.columns)} columns and a line of {len(row)}")
        if not any(self.columns):
            return self.rows
        names = [name.lower() for name in self.columns]
        places = [names.index(axis) for axis in AXES if axis in names]
        if not {"x", "y"} <= set(names) or any(names.count(axis) > 1 for axis in AXES):
            raise ValueError(f"the columns {', '.join(self.columns)}; expected x, y and z, each once")
        return [[row[place] for place in places] for row in self.rows]

    def column(self, *names: str) -> list[str]:
        """What a column holds, of the first name that is there; empty texts where none is."""
        lower = [name.lower() for name in self.columns]
        place = next((lower.index(name) for name in names if name in lower), None)
        return ["" if place is None or place >= len(row) else row[place].text for row in self.rows]

    def stored(self, cells: list[list[Cell]], frame: np.ndarray | None) -> Stored:
        """Those cells as points, and whatever else there is as it is."""

        def write(path: Path, values: np.ndarray) -> None:
            pairs = zip((cell for row in cells for cell in row), values.ravel().tolist(), strict=True)
            pieces = sorted((cell.begin, cell.end, f"{value:.10g}") for cell, value in pairs)
            path.write_text(replaced(self.text, pieces), encoding="utf-8", newline="")

        return Stored(numbers(cells), frame, self.column("label", "name"), write)


def numbers(cells: list[list[Cell]]) -> np.ndarray:
    """(M, ndim) float64 of cells; (0, 0) where there are none."""
    values = np.array([[float(cell.text) for cell in row] for row in cells], np.float64)
    return values.reshape(len(cells), -1) if len(cells) else np.zeros((0, 0))


def read_text(path: Path) -> str:
    """A text of UTF-8, whose ends of lines and byte order mark stay.

    Raises:
        OSError, ValueError: it is none.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def parsed(text: str) -> Table:
    """A table, of which the first line names the columns, or none does.

    Raises:
        ValueError: its first line has neither numbers alone, nor x and y among names of columns.
    """
    rows = list(split(text))
    if not rows:
        return Table(text, [], [])
    columns = [cell.text for cell in rows[0]]
    if {"x", "y"} <= {name.lower() for name in columns}:
        named = [row for row in split(text, comments=False) if row[0].begin > rows[0][-1].end]
        return Table(text, columns, named)
    try:
        numbers(rows[:1])
    except ValueError as error:
        raise ValueError(f"{error} in its first line, which has no columns x and y either") from None
    return Table(text, [""] * len(columns), rows)


def split(text: str, *, comments: bool = True) -> Iterator[list[Cell]]:
    """The rows of a table that are not empty; without comments, where there are some."""
    at, row, cut = len(text) - len(text.lstrip("\ufeff")), list[Cell](), False
    while at < len(text):
        if comments and not row and (comment := _COMMENT.match(text, at)):
            at = comment.end()
            continue
        found = _CELL.match(text, at)
        assert found is not None
        raw, begin = found[1], found.start()
        if comments and not cut and "#" in raw and not raw.lstrip().startswith('"'):
            raw, cut = raw.partition("#")[0], True
            row.append(_cell(raw, begin))
        elif not cut:
            row.append(_cell(raw, begin))
        at = found.end()
        if found[2] != ",":
            if len(row) > 1 or row[0].text:
                yield row
            row, cut = [], False
    if row:  # the text ends with a comma
        yield [*row, Cell("", at, at)]


def _cell(raw: str, begin: int) -> Cell:
    inner = raw.strip()
    begin += len(raw) - len(raw.lstrip())
    if len(inner) > 1 and inner[0] == inner[-1] == '"':
        quoted = inner[1:-1]
        begin += 1 + len(quoted) - len(quoted.lstrip())
        inner = quoted.strip()
        return Cell(inner.replace('""', '"'), begin, begin + len(inner))
    return Cell(inner, begin, begin + len(inner))


def _read(path: Path, asked: str | None) -> Stored:
    table = parsed(read_text(path))
    return table.stored(table.points(), None)


FORMAT = Format("a table of points", (".csv",), _read)
