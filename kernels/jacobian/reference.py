"""Jacobian determinant of x + disp(x): the definition.

J_kl = delta_kl + d disp_k / d x_l by central differences, one-sided at the border, 0 along an axis of one voxel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _difference(x: Tensor, axis: int) -> Tensor:
    size = x.shape[axis]
    if size == 1:
        return torch.zeros_like(x)
    at = torch.arange(size, device=x.device)
    low, high = (at - 1).clamp(min=0), (at + 1).clamp(max=size - 1)
    width = (high - low).to(x.dtype).view(-1, *[1] * (x.ndim - 1 - axis))
    return (x.index_select(axis, high) - x.index_select(axis, low)) / width


def jacobian_determinant(disp: Tensor) -> Tensor:
    """disp (N, ndim, *spatial) -> (N, *spatial)."""
    ndim = disp.shape[1]
    j = torch.stack([_difference(disp, 2 + axis) for axis in range(ndim)], -1).movedim(1, -2)  # (N, *spatial, k, l)
    j = j + torch.eye(ndim, dtype=disp.dtype, device=disp.device)
    if ndim == 2:
        return j[..., 0, 0] * j[..., 1, 1] - j[..., 0, 1] * j[..., 1, 0]
    normal: Tensor = torch.linalg.cross(j[..., 1, :], j[..., 2, :])
    return (j[..., 0, :] * normal).sum(-1)
