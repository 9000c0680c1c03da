"""greedy's affine maps (.mat): four rows of four numbers, from place of fixed to place of moving in RAS millimetres.

FSL's flirt writes texts of the same look and name that mean something else; `c3d_affine_tool`'s mean the same. The
warps of greedy are ITK's fields. As picsl_greedy 1.4.0.3 writes and applies them.
"""

from __future__ import annotations

from pathlib import Path

from ...world import Affine, Transform
from .format import Format, Grids, is_four_rows, linear, rows_of_four, write_rows

_SUFFIXES = (".mat",)


def _read(file: Path, grids: Grids) -> Transform:
    rows = rows_of_four(file)
    if rows is None:
        raise ValueError("no four rows of four numbers")
    return Affine(rows)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    write_rows(file, linear(transform, "greedy's .mat"))


FORMAT = Format(
    "greedy",
    "an affine map of greedy, from place of fixed to place of moving in RAS mm",
    is_four_rows,
    _read,
    _write,
    _SUFFIXES,
)
