"""FSL's linear maps (.mat): four rows of four numbers, from place of moving to place of fixed in FSL's millimetres.

FSL counts from the first voxel, in its own size along each axis, and along the first axis from the last voxel where the
determinant of the image's affine is positive: a map means something between its two images alone. It is the inverse of
ours, and of greedy's and NiftyReg's, whose texts look the same. FLIRT itself is not here: what is said of it is seen of
fslpy 3.29.1. An image whose header places it nowhere counts from the last voxel, as there, though its affine by nibabel
has a negative determinant (findings/fsl_unplaced.sh).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...world import Affine, Grid, Transform
from .format import Format, Grids, is_four_rows, linear, rows_of_four, write_rows

_SUFFIXES = (".mat", ".txt", ".xfm")


def frame(grid: Grid) -> np.ndarray:
    """(4, 4) of an image, from FSL's millimetres to RAS ones."""
    sizes = np.linalg.norm(grid.affine[:3, :3], axis=0)
    scaled = np.diag([*sizes, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        scaled[0, 0], scaled[0, 3] = -sizes[0], (grid.size[0] - 1) * sizes[0]
    return grid.affine @ np.linalg.inv(scaled)


def _read(file: Path, grids: Grids) -> Transform:
    rows = rows_of_four(file)
    if rows is None:
        raise ValueError("no four rows of four numbers")
    fixed, moving = _frames(grids)
    return Affine(fixed @ Affine(rows).array @ np.linalg.inv(moving)).inverse


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    matrix = Affine(linear(transform, "a matrix of FLIRT's")).inverse.array
    fixed, moving = _frames(grids)
    write_rows(file, np.linalg.inv(fixed) @ matrix @ moving)


def _frames(grids: Grids) -> tuple[np.ndarray, np.ndarray]:
    why = "FLIRT's places are counted in voxels"
    return frame(grids.need("fixed", why)), frame(grids.need("moving", why))


FORMAT = Format(
    "flirt", "a linear map of FSL's FLIRT, from place of moving to place of fixed in FSL's mm", is_four_rows, _read,
    _write, _SUFFIXES,
)  # fmt: skip
