"""DIPY's mappings, and the affine maps that its users save.

A mapping is NIfTI of shape (X, Y, Z, 3, 2) at the voxels of the static image, here fixed. Its second field, which DIPY
calls backward, takes places of fixed to places of moving: by it `DiffeomorphicMap.transform` resamples moving. The
first goes back. Vectors are in RAS millimetres, however the grid lies. The affine in the header is not the grid's but
its inverse. The pre-alignment is not in the file: a place goes through the field and then through that map, which
`read_transform` reads by itself. For ``read_mapping(FILE, MOVING, FIXED, prealign=...)`` it has to be inverted; ours
need none.

Affine maps are four rows of four numbers as text (`numpy.savetxt`), or an array of shape (4, 4) (`numpy.save`), from
place of fixed to place of moving in RAS millimetres. Seen of DIPY 1.12.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...world import Affine, Displacement, Grid, Transform
from ..headers import checked
from ..nifti import NIFTI, open_nifti, write_volumes
from ..npy import write_npy
from ..source import read_values
from . import npy
from .format import Format, Grids, is_four_rows, linear, named, rows_of_four, write_rows

_BACKWARD = 1


def _knows(file: Path) -> bool:
    if named(file, NIFTI):
        image: Any = open_nifti(str(file), file)
        return bool(image.shape[3:] == (3, 2))
    return npy.holds_matrix(file) or is_four_rows(file)


def _read(file: Path, grids: Grids) -> Transform:
    if named(file, NIFTI):
        image: Any = open_nifti(str(file), file)
        if image.shape[3:] != (3, 2):
            raise ValueError(f"the shape {image.shape}")
        fields = read_values(str(file), image, scaled=True)
        affine = np.linalg.inv(checked("its header", image.affine))
        return Displacement.of_world(fields[..., _BACKWARD].movedim(-1, 0).contiguous(), affine)
    rows = npy.load(file, "") if npy.holds_matrix(file) else rows_of_four(file)
    if rows is None:
        raise ValueError("no (4, 4) matrix")
    return Affine(rows)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    if named(file, npy.SUFFIXES):
        matrix = linear(transform, "an array of shape (4, 4)")
        write_npy(file, matrix)
        return
    if not named(file, NIFTI):
        write_rows(file, linear(transform, "a file of text"))
        return
    grid: Grid | None = grids.fixed or transform.grid
    if grid is None:
        raise InputError("fixed: expected the fixed image, at whose voxels the mapping is written")
    fields = (each.on(grid).vectors.float().permute(1, 2, 3, 0).numpy() for each in (transform.inverse, transform))
    write_volumes(file, fields, (*grid.size, 3, 2), np.dtype(np.float32), np.linalg.inv(grid.affine))


FORMAT = Format(
    "dipy",
    "a mapping of DIPY, or an affine map from place of fixed to place of moving in RAS mm",
    _knows,
    _read,
    _write,
    (*reversed(NIFTI), ".txt", *npy.SUFFIXES),
)
