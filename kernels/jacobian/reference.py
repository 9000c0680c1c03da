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


def _difference_adjoint(grad: Tensor, axis: int) -> Tensor:
    """What `_difference` gives back to its input for a gradient to its output."""
    size = grad.shape[axis]
    result = torch.zeros_like(grad)
    if size > 1:
        at = torch.arange(size, device=grad.device)
        low, high = (at - 1).clamp(min=0), (at + 1).clamp(max=size - 1)
        share = grad / (high - low).to(grad.dtype).view(-1, *[1] * (grad.ndim - 1 - axis))
        result.index_add_(axis, high, share).index_add_(axis, low, -share)
    return result


def _jacobian(disp: Tensor) -> Tensor:
    """disp (N, ndim, *spatial) -> J (N, *spatial, k, l)."""
    ndim = disp.shape[1]
    j = torch.stack([_difference(disp, 2 + axis) for axis in range(ndim)], -1).movedim(1, -2)
    return j + torch.eye(ndim, dtype=disp.dtype, device=disp.device)


def jacobian_determinant(disp: Tensor) -> Tensor:
    """disp (N, ndim, *spatial) -> (N, *spatial)."""
    j = _jacobian(disp)
    if disp.shape[1] == 2:
        return j[..., 0, 0] * j[..., 1, 1] - j[..., 0, 1] * j[..., 1, 0]
    normal: Tensor = torch.linalg.cross(j[..., 1, :], j[..., 2, :])
    return (j[..., 0, :] * normal).sum(-1)


def jacobian_determinant_backward(grad: Tensor, disp: Tensor) -> Tensor:
    """grad (N, *spatial) -> gradient to disp: d det / d J_kl is the cofactor of J_kl, and J is linear in disp."""
    ndim = disp.shape[1]
    j = _jacobian(disp)
    result = torch.zeros_like(disp)
    for k in range(ndim):
        rows = [j[..., (k + i) % ndim, :] for i in range(1, ndim)]
        if ndim == 2:
            (other,) = rows
            cofactors = torch.stack([other[..., 1], -other[..., 0]], -1) * (1 - 2 * k)
        else:
            cofactors = torch.linalg.cross(rows[0], rows[1])
        for axis in range(ndim):
            result[:, k] += _difference_adjoint(grad * cofactors[..., axis], 1 + axis)
    return result
