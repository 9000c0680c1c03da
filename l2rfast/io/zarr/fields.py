"""Displacement fields in OME-Zarr, read where a map needs them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from ...errors import InputError, notice
from ...world import Displacement, Field, Grid
from ...world.algebra import SAME
from ...world.maps import Map
from .axes import DISPLACEMENT
from .levels import Level, open_levels, whole


class StoredField(Field):
    """A displacement field in OME-Zarr. What a map needs of it is read when that is carried on.

    Args:
        level: see `open_levels`.
    """

    def __init__(self, level: Level) -> None:
        self.level, self.affine = level, level.grid.affine

    @cached_property
    def disp(self) -> Tensor:  # type: ignore[override]
        """All of it, (1, 3, D, H, W) float32, in voxels of its grid."""
        return self.part(whole(self.grid.shape))

    @property
    def grid(self) -> Grid:
        return self.level.grid

    def part(self, at: Sequence[slice]) -> Tensor:
        """Some of it, (1, 3, D, H, W) float32, in voxels of its grid. That it is not finite somewhere is said."""
        vectors = self.level.block(at).float()
        if not vectors.isfinite().all():
            notice(f"{self.level.name}: its field is not finite everywhere; such voxels lead nowhere")
        for component, scale in zip(vectors, self.level.scales, strict=True):
            component.div_(scale)
        return vectors[None]

    def carried(self, map: Map) -> Map:
        at = around(map, self.grid)
        if map.disp is None:  # of its own voxels those, and no more
            first = np.linalg.solve(self.affine, map.frame)
            begin = np.rint(first[:3, 3]).astype(int)
            own = [slice(b, b + n) for b, n in zip(begin.tolist(), map.size, strict=True)]
            inside = all(part.start >= 0 and part.stop <= n for part, n in zip(own, self.grid.size, strict=True))
            if inside and self.grid.part(own).agrees(Grid(map.size, map.frame), SAME):
                at = own
        return Displacement(self.part(at), self.grid.part(at).affine).carried(map)


def around(map: Map, grid: Grid, margin: int = 2) -> list[slice]:
    """The voxels of a grid that lie where a map leads, and so many more to each side. Where it leads beyond the grid
    there is a voxel at its border."""
    at = []
    for low, high, n in zip(*map.reach(grid.affine), grid.size, strict=True):
        begin = min(max(math.floor(low) - margin, 0), n - 1)
        at.append(slice(begin, min(max(math.ceil(high) + margin + 1, begin + 1), n)))
    return at


def read_field(name: str, path: str | os.PathLike[str]) -> StoredField:
    """A displacement field, of which nothing is read yet: of the finest resolution.

    Raises:
        InputError: as `open_levels`, or it is an image.
    """
    level = open_levels(name, path)[0]
    if level.components is None:
        raise InputError(
            f"{name}: expected a displacement field, with an axis of the type {DISPLACEMENT}, got an image"
        )
    return StoredField(level)
