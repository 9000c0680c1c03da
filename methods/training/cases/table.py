"""Tables of pairs, as spreadsheets and programs write them.

The first line names the columns: ``fixed`` and ``moving``, and where they exist ``fixed_labels``, ``moving_labels``,
the same of ``landmarks`` and of ``keypoints``, and ``split``: ``training`` (or ``train``), ``validation`` (``val``)
or ``test``. Paths are relative to the file.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from l2rfast.errors import InputError

from ...tables import read
from .case import KINDS, Case, Pair, Pairs, existing, say_what_is_not_used

ROLES = ("fixed", "moving")
COLUMNS = (*ROLES, *(f"{role}_{kind}" for kind in KINDS for role in ROLES), "split")
SPLITS = {"": "training", "training": "training", "train": "training"}
SPLITS |= {"validation": "validation", "val": "validation", "test": "test"}

NOTHING = ("", "na", "n/a", "nan", "none", "null")  # R, BIDS and pandas write such into empty cells


def of_table(path: Path, hold_out: int) -> Pairs:
    """
    Raises:
        InputError: a file that cannot be read or is not such a table, or files of it that are not there.
    """
    table = read(
        "data", path, lambda names: set(ROLES) <= set(map(str.lower, names)), f"columns among {', '.join(COLUMNS)}"
    )
    columns = [name.lower() for name in table.columns]
    twice = [name for name, count in Counter(columns).items() if count > 1 and name in COLUMNS]
    if twice:
        raise InputError(f"data: expected each column once, got {twice[0]} twice in {path}")
    say_what_is_not_used(path, table.own(lambda name: name.lower() in COLUMNS))
    if hold_out and "split" in columns:
        raise InputError(f"hold_out: expected 0, as {path} has a column split")
    pairs: dict[str, list[Pair]] = {name: [] for name in ("training", "validation", "test")}
    for line, row in table.rows:
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


def _case(folder: Path, role: str, cells: dict[str, str]) -> Case:
    beside = {kind: cells.get(f"{role}_{kind}") for kind in KINDS}
    return Case(
        existing(folder / cells[role]), **{kind: existing(folder / name) for kind, name in beside.items() if name}
    )
