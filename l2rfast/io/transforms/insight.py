"""ITK's transforms, in all its kinds of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib

from ...errors import InputError
from ...world import Displacement, Grid, Transform, compose
from ..displacements import read_displacement, write_displacement
from ..nifti import NIFTI
from . import hdf5, matlab, text
from .format import Format, Grids, head, linear, named
from .itk import transform_of

_READERS = (text, matlab, hdf5)


def _knows(file: Path) -> bool:
    if named(file, NIFTI):
        header: Any = nib.load(file).header
        return int(header["intent_code"]) in (1006, 1007)
    return any(named(file, reader.SUFFIXES) and head(file).startswith(reader.MAGIC) for reader in _READERS)


def _read(file: Path, grids: Grids) -> Transform:
    if named(file, NIFTI):
        return Displacement(*read_displacement(file))
    reader = next((reader for reader in _READERS if named(file, reader.SUFFIXES)), text)
    stored = [each for each in reader.stored(file) if not each.kind.startswith("CompositeTransform")]
    # A point goes through the last first.
    return compose(*(transform_of(each) for each in reversed(stored)))


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    if named(file, NIFTI):
        grid: Grid | None = grids.fixed or transform.grid
        if grid is None:
            raise InputError("fixed: expected the fixed image, at whose voxels the field is written")
        write_displacement(file, transform.on(grid).disp, grid.affine)
    else:
        text.write_affine(file, linear(transform, "a file of text"))


FORMAT = Format(
    "itk", "a transform of ITK, ANTs or SimpleITK", _knows, _read, _write, (".nii.gz", ".nii", ".txt", ".tfm")
)
