"""The grid of an image, of which no voxel is read."""

from __future__ import annotations

import os
from typing import Any

from nibabel.spatialimages import SpatialImage

from ..errors import InputError
from ..world import Grid
from .formats import open_image
from .headers import affine_of
from .volume import Volume

FIELD = 3 * 4  # bytes of a voxel of a displacement field


def read_grid(name: str, value: Any) -> Grid:
    """Where the voxels of an image lie.

    Args:
        name: of the argument, for messages.
        value: a path, of any format of docs/reference/input.md, a nibabel image, a `Volume` or a `Grid`. Of a series
            it is the grid of one volume; axes of length 1 stay, and of a file of two axes it has two.

    Raises:
        InputError: none of these, or the file is missing, damaged or of another kind.
    """
    if isinstance(value, Grid):
        return value
    if isinstance(value, Volume):
        return Grid(tuple(value.data.shape), value.affine)
    stored = isinstance(value, str | os.PathLike)
    if stored:
        name = f"{name} ({value})"
        value = open_image(name, value)
    if not isinstance(value, SpatialImage):
        raise InputError(f"{name}: expected a path, a nibabel image, a Volume or a Grid, got {type(value).__name__}")
    affine, _ = affine_of(name, value, stored=stored)
    if not value.shape or min(value.shape[:3]) < 1:
        raise InputError(f"{name}: expected voxels, got shape {value.shape}")
    return Grid(tuple(value.shape[:3]), affine)
