"""ITK's transforms, as ANTs, SimpleITK and 3D Slicer have them, in all kinds of their files.

From places of fixed to places of moving, in LPS millimetres. In a list of several a point goes through the last first.
Greedy's warps are ITK's fields.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from ....world import Displacement, Transform
from ...displacements import OTHERS, read_displacement, write_displacement
from ...nifti import NIFTI, open_nifti
from ...volume import Volume, axes_in_itk
from ..format import Format, Grids, axes_of, linear, named
from . import hdf5, matlab, text
from .stored import stored_affine, stored_of, transform_of

_FILES = (text, matlab, hdf5)
_INTENTS = (1006, 1007)


def _knows(file: Path) -> bool:
    if named(file, NIFTI):
        header: Any = open_nifti(str(file), file).header
        return int(header["intent_code"]) in _INTENTS and header["intent_name"].item() not in OTHERS
    return any(kind.knows(file) for kind in _FILES)


def _read(file: Path, grids: Grids) -> Transform:
    if named(file, NIFTI):
        disp, affine = read_displacement(file)
        return Displacement(disp, affine, axes_in_itk(Volume(disp[0, 0], affine)))
    kind = next((kind for kind in _FILES if kind.knows(file)), None)
    if kind is None:
        raise ValueError("another file")
    return transform_of(kind.load(file), grids)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    if named(file, NIFTI):
        _write_field(file, transform, grids)
    elif named(file, hdf5.SUFFIXES):
        hdf5.store(file, stored_of(transform, axes_of(transform, grids)))
    else:
        kind = matlab if named(file, matlab.SUFFIXES) else text
        matrix = linear(transform, f"a {file.suffix} file of ITK's")
        kind.store(file, stored_affine(matrix, axes_of(transform, grids)))


def _write_field(file: Path, transform: Transform, grids: Grids) -> None:
    """As one field. Of an axis of length 1 that comes last ITK takes no notice in a field: it comes first."""
    grid = grids.fixed or transform.grid
    if grid is None:
        raise InputError("fixed: expected the fixed image, at whose voxels the field is written")
    disp, affine = transform.on(grid).disp[0], grid.affine
    if axes_of(transform, grids) == 2:
        disp = disp[:2, ..., 0]
    elif disp.shape[-1] == 1:
        disp, affine = disp[[2, 0, 1]].movedim(-1, 1), affine[:, [2, 0, 1, 3]]
    write_displacement(file, disp, affine)


def write_affine(path: str | os.PathLike[str], matrix: np.ndarray, ndim: int = 3) -> None:
    """Write a map of the world as ITK's transform file (.txt), in LPS millimetres.

    Args:
        path: of the file.
        matrix: (4, 4), place of fixed -> place of moving, in NIfTI's RAS millimetres.
        ndim: of the images in ITK, see `axes_in_itk`; of two axes, which are the first of the world's.

    ITK, ANTs and SimpleITK read it; in a list of transforms it comes before `write_displacement`'s field: a place of
    fixed goes through the field first.

    Raises:
        OSError: the file cannot be written.
    """
    text.store(Path(path), stored_affine(matrix, ndim))


FORMAT = Format(
    "itk",
    "a transform of ITK, ANTs or SimpleITK",
    _knows,
    _read,
    _write,
    (*reversed(NIFTI), *hdf5.SUFFIXES, *matlab.SUFFIXES, *text.SUFFIXES),
)
