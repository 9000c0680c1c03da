"""3D Slicer's fiducials (.fcsv): comma-separated values, of which lines of comments say what they are.

The system of coordinates is LPS or RAS, by name or by the number that Slicer before 4.11 gives it, and RAS where none
is named. Everything but the coordinates stays, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from .stored import LPS, RAS, Format, Stored
from .table import AXES, Table, read_text, split

_SYSTEMS = {"LPS": LPS, "1": LPS, "RAS": RAS, "0": RAS}


def _read(path: Path, asked: str | None) -> Stored:
    text = read_text(path)
    columns, system = ["id", *AXES], "RAS"
    for line in text.splitlines():
        key, _, value = line.lstrip("\ufeff# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = value.strip()
        elif line.startswith("#") and key.strip() == "columns":
            columns = [column.strip() for column in value.split(",")]
    if system not in _SYSTEMS:
        raise ValueError(f"the coordinate system {system!r}; expected LPS or RAS")
    # Cells at the end of a line may be left out; a label may have any sign in it.
    rows = [row for row in split(text, comments=False) if not row[0].text.startswith("#")]
    places = [columns.index(axis) for axis in AXES]
    table = Table(text, columns, rows)
    if any(len(row) <= max(places) for row in rows):
        raise ValueError("a line without coordinates")
    return table.stored([[row[place] for place in places] for row in rows], _SYSTEMS[system])


FORMAT = Format("3D Slicer's fiducials", (".fcsv",), _read)
