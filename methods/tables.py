"""Tables, as spreadsheets and programs write them.

The first line names the columns. Cells are parted by commas, semicolons or tabs. Spaces around them, empty lines, lines
that begin with ``#`` and Excel's ``sep=;`` do not count.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from l2rfast.errors import InputError
from l2rfast.io.reading import check_file

ASIDE = ("#", "sep=")  # comments, and how Excel is told the delimiter

Row = list[str]


@dataclass(frozen=True)
class Table:
    """
    Attributes:
        line: that names the columns, from 1 on.
        columns: their names, as they are written.
        rows: those that are not empty, each with its line. One may have fewer cells than there are columns, or more.
    """

    line: int
    columns: list[str]
    rows: list[tuple[int, Row]]

    def own(self, known: Callable[[str], bool]) -> list[str]:
        """The columns that are not known; a spreadsheet's empty ones are none at all."""
        unknown = [(i, name) for i, name in enumerate(self.columns) if not known(name)]
        return [name or "a column without a name" for i, name in unknown if name or self._is_filled(i)]

    def _is_filled(self, column: int) -> bool:
        return any(row[column] for _, row in self.rows if column < len(row))


def read(name: str, path: Path, known: Callable[[Row], bool], expected: str) -> Table:
    """
    Args:
        name: of the argument, for messages.
        path: of a file in UTF-8 or UTF-16.
        known: whether these may be the columns. csv.Sniffer guesses the delimiter by frequencies, which paths mislead;
            here it is the one by which the first line names what it has to.
        expected: of the columns, for the message where they are not.

    Raises:
        InputError: the file cannot be read, or is not such a table.
    """
    text = text_of(name, path)
    for delimiter in "\t,;" if path.suffix.lower() == ".tsv" else ",;\t":
        rows = _rows(text, delimiter)
        line = 0
        try:
            line, columns = next(rows, (0, []))
            if known(columns):
                return Table(line, columns, list(rows))
        except csv.Error as error:
            if line:  # else marks of quotation, where another delimiter ends a cell
                raise InputError(f"{name}: cannot read {path}: {error}") from error
    raise InputError(f"{name}: expected {expected}, got {text.lstrip().splitlines()[:1]} in {path}")


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, Row]]:
    """
    Raises:
        csv.Error: a quotation without an end, or with something behind it.
    """
    lines = ("\n" if line.lstrip(" ").startswith(ASIDE) else line for line in io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 0
    try:
        for cells in reader:
            line, row = reader.line_num, [cell.strip() for cell in cells]
            if any(row):
                yield line, row
    except csv.Error as error:
        raise csv.Error(f"line {line + 1}: {error}") from error


def text_of(name: str, path: Path, kind: str = "a table") -> str:
    """Of a file in UTF-8, or in UTF-16 with a byte order mark.

    Args:
        name: of the argument, for messages.
        path: of the file.
        kind: what it is expected to be, for messages.

    Raises:
        InputError: it cannot be read, or is of another encoding.
    """
    expected = f"{name} ({path}): expected {kind}, in UTF-8 or in UTF-16 with a byte order mark"
    check_file(f"{name} ({path})", path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{expected}, but there is no such file") from error
    except OSError as error:
        raise InputError(f"{expected}, but it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{expected}, but the file is of another kind") from error
    if "\0" in text:
        raise InputError(f"{expected}, but the file is of another kind")
    return text
