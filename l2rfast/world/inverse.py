"""The inverse of a field that may turn and scale by any amount."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fields import invert
from ..transforms import affine_warp

NEAR = 0.5  # norm of an affine part, less the identity, to which the field backwards is close enough
LEAST = 1e-3  # volume of an affine part that has an inverse


def inverted(field: Tensor) -> Tensor:
    """`l2rfast.invert`, which is Newton's method, begun at the inverse of the affine part where the map turns by much.

    The map is y = c + t + L (x - c) + r(x), L and t by least squares. Its inverse is near
    x = c + L^-1 (y - c - t - r(a)), a what that gives without r; of a field that is small it is y - field(y).

    Args:
        field: (1, ndim, *spatial) float32 displacements in voxels.

    Returns:
        (1, ndim, *spatial). Where there is no inverse on the grid, its border repeated, what comes nearest.
    """
    ndim, size = field.shape[1], field.shape[2:]
    axes = [torch.arange(n, dtype=torch.float64, device=field.device) - (n - 1) / 2 for n in size]
    centre = torch.tensor([(n - 1) / 2 for n in size], dtype=torch.float64)
    one = torch.eye(ndim, dtype=torch.float64)
    linear, shift = one.clone(), torch.zeros(ndim, dtype=torch.float64)
    for k in range(ndim):
        for j, axis in enumerate(axes):
            # About the centre of a grid its axes are orthogonal, so that each has a slope of its own.
            profile = field[0, k].mean([i for i in range(ndim) if i != j], dtype=torch.float64)
            linear[k, j] += float(profile @ axis / axis.square().sum().clamp(min=1))
        shift[k] = float(profile.mean())
    if torch.linalg.matrix_norm(linear - one, 2) < NEAR or linear.det().abs() < LEAST:
        return invert(field)
    grid = torch.stack(torch.meshgrid(*[axis.float() for axis in axes], indexing="ij"))[None]
    rest = field - _applied(linear - one, grid, shift)
    back = torch.linalg.inv(linear)
    to = torch.cat([back, (centre - back @ (centre + shift))[:, None]], 1)
    rest = affine_warp(rest, to[None].to(field), size)
    return invert(field, _applied(back, grid - rest, -back @ shift) - grid)


def _applied(matrix: Tensor, places: Tensor, shift: Tensor) -> Tensor:
    """matrix places + shift, of (1, ndim, *spatial)."""
    moved = matrix.to(places) @ places.flatten(2) + shift.to(places)[:, None]
    return moved.view(places.shape)
