"""The determinants of a displacement field in OME-Zarr, block by block."""

from __future__ import annotations

from typing import Any

import torch

from l2rfast import jacobian_determinant
from l2rfast.io import zarr

from .cover import sides, tiles, wider, within

HALO = 1  # voxels to each side that a determinant takes part of
_PER_VOXEL = 60  # bytes: the field as it is read and in voxels, and determinants


def jacobian(field: zarr.StoredField, out: Any, *, log: bool, memory: int, cell: int = zarr.CHUNK) -> int:
    """Write the local change of volume, `l2rfast.jacobian_determinant`, or its logarithm: the bits of all at once.

    Args:
        field: what of it is needed is read.
        out: an array of its shape in Zarr, whose chunks are of a cell.
        log: see above.
        memory: bytes that this process may take.
        cell: voxels along each axis of the least block.

    Returns:
        At how many voxels the field folds.

    Raises:
        InputError: too little memory.
    """
    shape, folded = field.grid.shape, 0
    for block in tiles(zarr.whole(shape), sides(shape, cell, memory, _PER_VOXEL)):
        around = wider(block, HALO, shape)
        change = jacobian_determinant(field.part(around))[0][within(block, around)]
        folded += int((change <= 0).sum())
        out[block] = (logarithm(change) if log else change).numpy()
    return folded


def logarithm(change: torch.Tensor) -> torch.Tensor:
    """Of determinants; where they are not positive of the least number."""
    return change.clamp(min=torch.finfo(change.dtype).tiny).log()
