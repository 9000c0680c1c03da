"""greedy's affine maps (.mat): four rows of four numbers, from place of fixed to place of moving in RAS millimetres.

Of images of two axes they are three rows of three, of the first two axes of the world. FSL's flirt writes texts of the
same look and name that mean something else; `c3d_affine_tool`'s mean the same. The warps of greedy are ITK's fields. As
picsl_greedy 1.4.0.3 writes and applies them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...world import Affine, Transform
from .format import Format, Grids, axes_of, is_four_rows, linear, named, rows_of_four, square, write_rows

_SUFFIXES = (".mat",)
_PLANE = (0, 1, 3)  # rows and columns of a matrix of the first two axes


def _read(file: Path, grids: Grids) -> Transform:
    if (rows := rows_of_four(file)) is not None:
        return Affine(rows)
    if (rows := square(file, 3)) is None:
        raise ValueError("no four rows of four numbers, nor three of three")
    matrix = np.eye(4)
    matrix[np.ix_(_PLANE, _PLANE)] = rows
    return Affine(matrix, 2)


def _knows(file: Path) -> bool:
    return is_four_rows(file) or (named(file, _SUFFIXES) and square(file, 3) is not None)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    matrix = linear(transform, "greedy's .mat")
    write_rows(file, matrix[np.ix_(_PLANE, _PLANE)] if axes_of(transform, grids) == 2 else matrix)


FORMAT = Format(
    "greedy",
    "an affine map of greedy, from place of fixed to place of moving in RAS mm",
    _knows,
    _read,
    _write,
    _SUFFIXES,
)
