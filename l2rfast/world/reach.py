"""Points that go through transforms, and whether the fields on the way reach so far."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .algebra import Composite, Inverse, Transform
from .grid import Grid


def followed(transform: Transform, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where points go, and whether all fields on the way are given there: no more than half a voxel beyond their grid.

    Elsewhere fields go on as at their border, where ITK ends them by a jump to 0.

    Args:
        points: (M, 3) float64, in RAS millimetres.

    Returns:
        (M, 3) float64, and (M,) bool.
    """
    inside = torch.ones(len(points), dtype=torch.bool)
    for part in transform.parts if isinstance(transform, Composite) else (transform,):
        went = part(points)
        if part.grid is not None:
            # An inverse ends where its field begins.
            inside &= _holds(part.grid, went if isinstance(part, Inverse) else points)
        points = went
    return points, inside


def _holds(grid: Grid, points: Tensor) -> Tensor:
    """Which points lie in the voxels of a grid; across a slice all do."""
    back = torch.from_numpy(np.linalg.inv(grid.affine)).to(points)
    voxels, size = points @ back[:3, :3].T + back[:3, 3], torch.tensor(grid.size).to(points)
    return ((size == 1) | ((voxels >= -0.5) & (voxels <= size - 0.5))).all(1)
