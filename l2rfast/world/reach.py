"""Points that go through transforms, and whether the fields on the way reach so far."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .algebra import Composite, Inverse, Transform
from .grid import Grid


class Followed(NamedTuple):
    """Where points went through a transform.

    Attributes:
        points: (M, 3) float64, in RAS millimetres.
        inside: (M,) bool, whether all fields on the way are given there: no more than half a voxel beyond their grid.
            Elsewhere they go on as at their border, where ITK ends them by a jump to 0.
        off: (M,) float64, from where inverses lead by their fields to where they should, in millimetres: where a field
            folds, or leaves a place out, there is no inverse.
    """

    points: Tensor
    inside: Tensor
    off: Tensor


def followed(transform: Transform, points: Tensor) -> Followed:
    """Where points go, and what has to be said of it.

    Args:
        transform: that they go through.
        points: (M, 3) float64, in RAS millimetres.

    Returns:
        A named tuple: ``points`` likewise; ``inside``, which of them lie in the grids of all fields; ``off``, by how
        many millimetres inverses miss them.
    """
    inside, off = torch.ones(len(points), dtype=torch.bool), torch.zeros(len(points), dtype=points.dtype)
    for part in transform.parts if isinstance(transform, Composite) else (transform,):
        went = part(points)
        if isinstance(part, Inverse):
            off = torch.maximum(off, (part.of(went) - points).norm(dim=1))
        if part.grid is not None:
            # An inverse ends where its field begins.
            inside &= _holds(part.grid, went if isinstance(part, Inverse) else points)
        points = went
    return Followed(points, inside, off)


def _holds(grid: Grid, points: Tensor) -> Tensor:
    """Which points lie in the voxels of a grid; across a slice all do."""
    back = torch.from_numpy(np.linalg.inv(grid.affine)).to(points)
    voxels, size = points @ back[:3, :3].T + back[:3, 3], torch.tensor(grid.size).to(points)
    return ((size == 1) | ((voxels >= -0.5) & (voxels <= size - 0.5))).all(1)
