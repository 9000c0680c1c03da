"""Normalised gradient fields (Haber and Modersitzki, MICCAI 2006): how far from parallel the edges of two images are.

    d_k a(x) = (a(x + e_k) - a(x - e_k)) / 2, the border repeated
    distance = mean over x of 1 - p q,   p = (da . db) / (|da|^2 + edge^2),   q = (da . db) / (|db|^2 + edge^2)

The gradient to b is the adjoint of d, applied to the flow p (da - q db) / (|db|^2 + edge^2), times -2 / voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _around(image: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The places before and after each one of an axis."""
    places = torch.arange(image.shape[axis], device=image.device)
    return (places - 1).clamp(min=0), (places + 1).clamp(max=image.shape[axis] - 1)


def _slope(image: Tensor, axis: int) -> Tensor:
    before, after = _around(image, axis)
    return (image.index_select(axis, after) - image.index_select(axis, before)) / 2


def _slope_adjoint(flow: Tensor, axis: int) -> Tensor:
    """What was read from is now added to."""
    before, after = _around(flow, axis)
    return torch.zeros_like(flow).index_add(axis, after, flow / 2).index_add(axis, before, -flow / 2)


def ngf(fixed: Tensor, moving: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """fixed, moving (N, C, *spatial) -> distance (N, C), its gradient to moving (N, C, *spatial)."""
    axes = range(2, fixed.ndim)
    a, b = (torch.stack([_slope(image, axis) for axis in axes]) for image in (fixed, moving))
    a_squared, b_squared = ((slopes**2).sum(0) + edge**2 for slopes in (a, b))
    product = (a * b).sum(0)
    p, q = product / a_squared, product / b_squared
    flow = p / b_squared * (a - q * b)
    distance = (1 - p * q).flatten(2).mean(2)
    adjoint = torch.stack([_slope_adjoint(flow[axis - 2], axis) for axis in axes]).sum(0)
    return distance, -2 / fixed[0, 0].numel() * adjoint
