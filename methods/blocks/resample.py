"""An image in OME-Zarr through transforms, on another grid, block by block.

The places of voxels are computed, and rounded, in cells that do not depend on the memory: the bits are the same for
any. Of all of the image at once, whose voxels have larger numbers, they are rounded more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2rfast.errors import InputError
from l2rfast.io import zarr
from l2rfast.resampling import Resampler
from l2rfast.world import Grid, Transform
from l2rfast.world.maps import Map

from .cover import around, sides, tiles, within

REACH = 6  # voxels of an image to each side that a sample takes part of, sinc's being the most
_PLACES = 40  # bytes of a voxel: the field, and copies while it is made
_TURNED = 3  # what lies around a block that is turned, of the block


def resample(
    image: zarr.Level,
    transform: Transform,
    reference: Grid,
    out: Any,
    *,
    memory: int,
    taken: Callable[[np.ndarray], Tensor],
    stored: Callable[[np.ndarray], np.ndarray],
    interpolation: str,
    outside: float,
    dtype: torch.dtype,
    cell: int = zarr.CHUNK,
) -> bool:
    """Resample an image.

    Args:
        image: what of it is needed is read.
        transform: from places of the reference to those of the image.
        reference: the grid of the result, of three axes.
        out: an array of that shape in Zarr, whose chunks are of a cell.
        memory: bytes that this process may take.
        taken, stored: voxels as they are interpolated, and as they are written.
        interpolation, outside, dtype: see `Resampler`.
        cell: voxels along each axis whose places are computed together.

    Returns:
        Whether any voxel of the reference lies within the image.

    Raises:
        InputError: an interpolation that takes all of an image, or too little memory.
    """
    if interpolation == "cubic":
        raise InputError("--interpolation: expected another than cubic for OME-Zarr, as that takes all of the image")
    number = image.dtype.itemsize
    ratio = abs(np.linalg.det(np.linalg.solve(image.grid.affine, reference.affine)))
    per_voxel = _PLACES + number * (1 + _TURNED * max(1.0, ratio))
    reached = False
    for block in tiles(zarr.whole(reference.shape), sides(reference.shape, cell, memory, per_voxel)):
        cells = tiles(block, [cell] * 3)
        maps = [transform.carried(Map.of(reference.part(each))) for each in cells]
        regions = [tuple(zarr.around(map, image.grid, REACH)) for map in maps]
        read = around(regions)
        voxels = image.block(read).numpy()
        result = np.empty([part.stop - part.start for part in block], image.dtype)
        for each, map, region in zip(cells, maps, regions, strict=True):
            resampler = Resampler(
                map,
                reference.part(each),
                image.grid.part(region),
                interpolation=interpolation,
                outside=outside,
                dtype=dtype,
            )
            reached = reached or resampler.reaches
            found = resampler(taken(voxels[within(region, read)])[None, None])[0, 0]
            result[within(each, block)] = stored(found.numpy())
        out[block] = result
    return reached
