"""Where the voxels of an image lie in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

AXES = 3


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of an image.

    Attributes:
        shape: (D, H, W), or (H, W) for a slice.
        affine: (4, 4) float64, voxel -> RAS millimetres; the third axis of a slice is across its plane.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def size(self) -> tuple[int, int, int]:
        """The shape with an axis of length 1 across the plane of a slice."""
        return lifted(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Between neighbouring voxels along each axis, in millimetres."""
        return tuple(np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0).tolist())

    def part(self, at: Sequence[slice]) -> Grid:
        """Some of the voxels, from where to where along each axis."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, : len(at)] @ [part.start for part in at]
        return Grid(tuple(part.stop - part.start for part in at), affine)

    def agrees(self, other: Grid, within: float = 1e-3) -> bool:
        """Whether two grids have the same voxels, at the same places but for ``within`` voxels."""
        if self.size != other.size:
            return False
        across = np.linalg.solve(self.affine, other.affine)
        corner = np.array([*self.size, 1.0])
        return bool((np.abs(across - np.eye(4)) @ corner < within).all())


def lifted(shape: Sequence[int]) -> tuple[int, int, int]:
    """A spatial shape of up to three axes, as one of three."""
    first, second, third = (*shape, 1, 1)[:AXES]
    return first, second, third
