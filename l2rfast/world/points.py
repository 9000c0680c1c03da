"""Displacement fields at points between voxels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..transforms import warp


def at_points(field: Tensor, points: Tensor) -> Tensor:
    """What a field is at points, linearly between its voxels; beyond the grid as at its border.

    Args:
        field: (1, ndim, *spatial), in any unit.
        points: (M, ndim) in voxels of the field, of its dtype and on its device.

    Returns:
        (M, ndim) in the dtype of the field.
    """
    (found,) = on_line(lambda places: (warp(field, places),), points)
    return found


def on_line(sample: Callable[[Tensor], tuple[Tensor, ...]], points: Tensor) -> list[Tensor]:
    """What an operation that samples at ``x + disp(x)`` gives at points, as if they were voxels of one line.

    Args:
        sample: of (1, ndim, M, 1[, 1]) displacements, gives (1, *any, M, 1[, 1]) each.
        points: (M, ndim).

    Returns:
        (M, *any) of each.
    """
    ndim = points.shape[1]
    if not len(points):
        points, none = points.new_zeros(1, ndim), slice(0)
    else:
        none = slice(None)
    line = points.T.reshape(1, ndim, len(points), *[1] * (ndim - 1))
    there = torch.arange(len(points), device=points.device).to(points).view(1, 1, -1, *[1] * (ndim - 1))
    # Along the first axis the field of places begins at the number of the point, along the others at 0.
    places = torch.cat([line[:, :1] - there, line[:, 1:]], 1)
    return [found[0].flatten(-ndim).movedim(-1, 0)[none] for found in sample(places)]
