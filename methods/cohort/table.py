"""A cohort as a table lists it: a row for each pair.

A column is called as an option of ``l2rfast register`` without the dashes before it, or ``id``; letters of any case,
and ``_`` is ``-``. What an option that takes several values is given stands in one cell, with ``;`` between, or in
columns of the same name. Cells that are empty, ``NA`` or ``n/a`` give nothing. Other columns are not used, which is
said, as tables have covariates; but one that is nearly called as an option is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from l2rfast.errors import InputError, notice

from ..names import some, stem
from ..tables import Row, Table, read
from .listed import Listed, checked, is_id

ID, MOVING = "id", "moving"
NOTHING = ("", "na", "n/a")  # R and BIDS write such into empty cells; not pandas' NaN, which --outside may be
SAID = {"1": "true", "true": "true", "yes": "true", "0": "false", "false": "false", "no": "false"}
CLOSE = 0.8  # of difflib: fixed_label and fixed.1, but not date for rate
DIGITS = 4  # of a number as an id, or more


def read_table(
    name: str,
    path: Path,
    names: Collection[str],
    several: Collection[str],
    *,
    flags: Collection[str],
    paths: Collection[str],
) -> list[Listed]:
    """The pairs of a CSV or TSV file in UTF-8 or UTF-16, in order. Whether their files are there is not looked at.

    Args:
        name: of the argument, for messages.
        path: of the table. Paths in it are relative to its folder.
        names: of all options that a row may have, as they are typed without the dashes before them. ``moving`` has to
            be a column, with a value in every row.
        several: those of them that take more than one value.
        flags: those that take none: their cells are 1, true, yes, or 0, false, no.
        paths: those whose values are paths.

    Returns:
        Without a column ``id`` they are called by the moving file, without what its name ends with, where that tells
        all of them apart and can be a folder; else by their numbers, from ``0001`` on.

    Raises:
        InputError: the file cannot be read, or what is in it cannot be meant.
    """
    expected = f"columns called as options of register, {MOVING} among them"
    table = read(name, path, lambda columns: MOVING in map(_called, columns), expected)
    _check_columns(name, path, table, names, several)
    if not table.rows:
        raise InputError(f"{name}: expected a row for each pair, got none in {path}")
    called = [_called(column) for column in table.columns]
    folder = os.path.join(os.path.abspath(path.parent), "")
    columns = [
        _Column(at, name, name in several, name in flags, folder if name in paths else None)
        for at, name in enumerate(called)
        if name in names
    ]
    where = [f"{path}, line {line}" for line, _ in table.rows]
    rows = [row for _, row in table.rows]
    given = [_given(place, columns, row, len(called)) for place, row in zip(where, rows, strict=True)]
    called_by = [_cell(row, called.index(ID)) for row in rows] if ID in called else ids(given)
    return checked([Listed(*pair) for pair in zip(called_by, given, where, strict=True)])


def _called(column: str) -> str:
    return column.lower().replace("_", "-")


def _cell(row: Row, at: int) -> str:
    """Programs leave the empty ones at the end of a row out."""
    return row[at] if at < len(row) else ""


def _check_columns(name: str, path: Path, table: Table, names: Collection[str], several: Collection[str]) -> None:
    known, where = {ID, *names}, f"{path}, line {table.line}"
    for column, count in Counter(map(_called, table.columns)).items():
        if count > 1 and column in known and column not in several:
            raise InputError(f"{where}: expected each column once, got {column} {count} times")
    own = table.own(lambda column: _called(column) in known)
    for column in own:
        close = get_close_matches(_called(column), names, n=1, cutoff=CLOSE)
        if close:
            raise InputError(f"{where}: expected columns called as options, got {column!r}; did you mean {close[0]}?")
    if own:
        notice(f"{name}: not used of {path}: {some(own)}")


@dataclass(frozen=True)
class _Column:
    """One with values of an option; of paths, ``folder`` is what they are relative to, with a slash behind."""

    at: int
    name: str
    several: bool
    flag: bool
    folder: str | None

    def values(self, cell: str) -> tuple[str, ...]:
        """
        Raises:
            ValueError: what is expected, and was got.
        """
        if self.flag:
            if cell.lower() not in SAID:
                raise ValueError(f"expected 1, true, yes, or 0, false, no of {self.name}, got {cell!r}")
            return (SAID[cell.lower()],)
        if not (self.several and ";" in cell):
            return (self._value(cell),)
        values = [value.strip() for value in cell.split(";")]
        if "" in values:
            raise ValueError(f"expected values of {self.name} with ; between, got {cell!r}")
        return tuple(map(self._value, values))

    def _value(self, text: str) -> str:
        return text if self.folder is None or text[0] == "/" else self.folder + text


def _given(where: str, columns: Sequence[_Column], row: Row, cells: int) -> Mapping[str, tuple[str, ...]]:
    """The options of a row.

    Raises:
        InputError: more cells than columns, no moving image, or a value that cannot be one.
    """
    if any(row[cells:]):
        raise InputError(f"{where}: expected {cells} cells, as there are columns, got {len(row)}: {row}")
    given: dict[str, tuple[str, ...]] = {}
    for column in columns:
        cell = _cell(row, column.at)
        if cell.lower() not in NOTHING:
            try:
                given[column.name] = given.get(column.name, ()) + column.values(cell)
            except ValueError as error:
                raise InputError(f"{where}: {error}") from None
    if MOVING not in given:
        raise InputError(f"{where}: expected a moving image, got {row}")
    return given


def ids(given: Sequence[Mapping[str, tuple[str, ...]]]) -> list[str]:
    """What pairs are called that have no names: see `read_table`."""
    names = [stem(Path(options[MOVING][0])) for options in given]
    if all(map(is_id, names)) and len({name.casefold() for name in names}) == len(names):
        return names
    digits = max(DIGITS, len(str(len(names))))
    return [f"{number:0{digits}}" for number in range(1, len(names) + 1)]
