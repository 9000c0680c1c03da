"""Displacements as arrays of NumPy's: of VoxelMorph, MONAI, ConvexAdam and Learn2Reg, in voxels of fixed.

At each voxel of fixed what is added to its indices, in the order of the axes, to get those in the array of moving,
of the same shape: (3, X, Y, Z) as PyTorch has it, or (X, Y, Z, 3); a slice has two components. Axes of length 1
before them go. Learn2Reg's files (.npz, float16) hold (3, X/2, Y/2, Z/2), in voxels of the whole size still: its
evaluation enlarges them by `scipy.ndimage.zoom` of order 2, which takes first voxels to first and last to last.

Arrays tell neither which these are nor where they lie: fixed has to be known, and what fits it in no way, or in two, is
refused. The places of moving are at its own voxels, those of fixed where moving is not given.
ConvexAdam's NIfTI files say no more than arrays do, and have to be asked for by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...world import Affine, Displacement, Grid, Transform, compose
from ..nifti import NIFTI, open_nifti
from ..source import read_values
from . import npy
from .format import Format, Grids, named

_FILES = (*npy.SEVERAL, *npy.SUFFIXES)


def _knows(file: Path) -> bool:
    return npy.begins(file) and not npy.holds_matrix(file)


def _read(file: Path, grids: Grids) -> Transform:
    fixed = grids.need("fixed", "the array is in its voxels")
    if named(file, NIFTI):
        image: Any = open_nifti(str(file), file)
        if image.header["intent_code"] != 0:
            raise InputError("expected an array, got an image whose intent says otherwise")
        found = {"": _layouts(image.shape, fixed)}
    else:
        found = {name: _layouts(shape, fixed) for name, shape in npy.shapes(file).items()}
    fitting = [(name, *layout) for name, layouts in found.items() for layout in layouts]
    if len(fitting) != 1:
        kind = "none" if not fitting else "several"
        shapes = [image.shape] if named(file, NIFTI) else list(npy.shapes(file).values())
        raise InputError(
            f"expected one array that can be displacements at the voxels of fixed, {fixed.size}, or at half as many "
            f"along each axis, in one order of axes, got {kind} in shapes {shapes}"
        )
    name, last, half = fitting[0]
    values = read_values(str(file), image, scaled=True).numpy() if named(file, NIFTI) else npy.load(file, name)
    ndim = _axes(fixed)
    values = values.reshape(values.shape[-ndim - 1 :])
    if last:
        values = np.moveaxis(values, -1, 0)
    if half:
        from scipy.ndimage import zoom  # slow to import, as all of SciPy

        values = np.stack([zoom(each.astype(np.float32), 2, order=2) for each in values])
    disp = np.zeros((3, *fixed.size), np.result_type(values.dtype, np.float32))
    disp[:ndim] = values.reshape(ndim, *fixed.size)
    return compose(Displacement(torch.from_numpy(disp)[None], fixed.affine), _to_moving(grids, fixed))


def _to_moving(grids: Grids, fixed: Grid) -> Affine:
    """From the voxels of fixed to those of moving with the same indices."""
    moving = grids.moving
    if moving is None or moving.agrees(fixed):
        return Affine(np.eye(4))
    if moving.size != fixed.size:
        raise InputError(
            f"moving: expected as many voxels as of fixed, {fixed.size}, as the array goes from one's to the other's, "
            f"got {moving.size}; where moving had been resampled to fixed first, it is fixed's grid"
        )
    return Affine(moving.affine @ np.linalg.inv(fixed.affine))


def _axes(grid: Grid) -> int:
    """2 of a slice."""
    return 2 if grid.size[2] == 1 else 3


def _layouts(shape: tuple[int, ...], fixed: Grid) -> list[tuple[bool, bool]]:
    """In which ways a shape can be one of displacements: whether components come last, and whether it is the half."""
    ndim = _axes(fixed)
    size = fixed.size[:ndim]
    while len(shape) > ndim + 1 and shape[0] == 1:
        shape = shape[1:]
    ways = {(False, False): (ndim, *size), (True, False): (*size, ndim)}
    if not any(n % 2 for n in size):
        ways[False, True] = (ndim, *(n // 2 for n in size))
    return [way for way, expected in ways.items() if shape == expected]


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    fixed = grids.fixed or transform.grid
    if fixed is None:
        raise InputError("fixed: expected the fixed image, in whose voxels the array is")
    size = np.array(fixed.size)
    if _axes(fixed) == 2 or (size % 2).any() or (size < 4).any():
        raise InputError(
            f"fixed: expected three axes of even length of 4 voxels or more, as Learn2Reg's arrays are of half of it, "
            f"got {fixed.size}"
        )
    half = size // 2
    steps = (size - 1) / (half - 1)
    chain = compose(transform, _to_moving(grids, fixed).inverse)
    field = chain.on(Grid(tuple(half.tolist()), fixed.affine @ np.diag([*steps, 1]))).disp[0]
    scaled = field * torch.from_numpy(steps).to(field).view(3, 1, 1, 1)
    with file.open("wb") as stream:
        np.savez_compressed(stream, scaled.to(torch.float16).numpy())


FORMAT = Format(
    "arrays",
    "displacements in voxels of fixed as VoxelMorph, MONAI or Learn2Reg have them",
    _knows,
    _read,
    _write,
    npy.SEVERAL,
)
