"""Displacement fields at points between voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from l2rfast import warp


def at_points(field: Tensor, points: Tensor) -> Tensor:
    """What a field is at points, linearly between its voxels; beyond the grid as at its border.

    Args:
        field: (1, ndim, *spatial), in any unit.
        points: (M, ndim) in voxels of the field, of its dtype and on its device.

    Returns:
        (M, ndim) in the dtype of the field.
    """
    ndim = field.shape[1]
    if not len(points):
        return points.clone()
    line = points.T.reshape(1, ndim, len(points), *[1] * (ndim - 1))
    there = torch.arange(len(points)).to(points).view(1, 1, -1, *[1] * (ndim - 1))
    # Along the first axis the field of places begins at the number of the point, along the others at 0.
    places = torch.cat([line[:, :1] - there, line[:, 1:]], 1)
    found: Tensor = warp(field, places)[0].reshape(ndim, -1).T
    return found
