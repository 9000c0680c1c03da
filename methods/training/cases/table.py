"""Tables of pairs, as spreadsheets and programs write them.

The first line names the columns: ``fixed`` and ``moving``, and where they exist ``fixed_labels``, ``moving_labels``,
the same of ``landmarks`` and of ``keypoints``, and ``split``: ``training`` (or ``train``), ``validation`` (``val``)
or ``test``. Cells are parted by commas, semicolons or tabs; paths are relative to the file. Lines that
begin with ``#`` are comments.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from l2rfast.errors import InputError

from .case import KINDS, Case, Pair, Pairs, existing, say_what_is_not_used, text_of

ROLES = ("fixed", "moving")
COLUMNS = (*ROLES, *(f"{role}_{kind}" for kind in KINDS for role in ROLES), "split")
SPLITS = {"": "training", "training": "training", "train": "training"}
SPLITS |= {"validation": "validation", "val": "validation", "test": "test"}

NOTHING = ("", "na", "n/a", "nan", "none", "null")  # R, BIDS and pandas write such into empty cells
ASIDE = ("#", "sep=")  # comments, and how Excel is told the delimiter

Row = list[str]


def of_table(path: Path, hold_out: int) -> Pairs:
    """
    Raises:
        InputError: a file that cannot be read or is not such a table, or files of it that are not there.
    """
    columns, rows = _parsed(path)
    if hold_out and "split" in columns:
        raise InputError(f"hold_out: expected 0, as {path} has a column split")
    pairs: dict[str, list[Pair]] = {name: [] for name in ("training", "validation", "test")}
    for line, row in rows:
        cells = {name: cell * (cell.lower() not in NOTHING) for name, cell in zip(columns, row, strict=False)}
        split = SPLITS.get(cells.get("split", "").lower())
        if split is None or len(row) < len(columns) or any(row[len(columns) :]) or not all(cells[r] for r in ROLES):
            raise InputError(
                f"data: expected a value for each column, training, validation or test for split, "
                f"got {row} in line {line} of {path}"
            )
        pairs[split].append(Pair(*(_case(path.parent, role, cells) for role in ROLES)))
    if hold_out:
        pairs |= {"training": pairs["training"][:-hold_out], "validation": pairs["training"][-hold_out:]}
    return Pairs(**pairs)


def _parsed(path: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """The names of the columns and the rows that are not empty, with their lines."""
    text = text_of(path)
    # csv.Sniffer guesses by frequencies, which paths mislead; here it is known what the first line has to name.
    for delimiter in ",;\t":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
        except csv.Error as error:
            raise InputError(f"data: cannot read {path}: {error}") from error
        rows = [(line, row) for line, row in rows if any(row) and not row[0].startswith(ASIDE)]
        columns = [name.lower() for name in rows[0][1]] if rows else []
        if set(ROLES) <= set(columns):
            break
    else:
        found = text.lstrip().splitlines()[:1]
        raise InputError(f"data: expected columns among {', '.join(COLUMNS)}, got {found} in {path}")
    twice = [name for name, count in Counter(columns).items() if count > 1 and name in COLUMNS]
    if twice:
        raise InputError(f"data: expected each column once, got {twice[0]} twice in {path}")
    own = [rows[0][1][i] or "a column without a name" for i, name in enumerate(columns) if _is_own(i, name, rows[1:])]
    say_what_is_not_used(path, own)
    return columns, rows[1:]


def _is_own(i: int, name: str, rows: list[tuple[int, Row]]) -> bool:
    """Whether a column is not one of ours; a spreadsheet's empty ones are none at all."""
    return name not in COLUMNS and (name != "" or any(row[i] for _, row in rows if i < len(row)))


def _case(folder: Path, role: str, cells: dict[str, str]) -> Case:
    beside = {kind: cells.get(f"{role}_{kind}") for kind in KINDS}
    return Case(
        existing(folder / cells[role]), **{kind: existing(folder / name) for kind, name in beside.items() if name}
    )
