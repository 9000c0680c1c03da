"""Jacobian determinants of x + disp(x): the definition.

J_kl = delta_kl + d disp_k / d x_l by central differences, one-sided at the border, 0 along an axis of one voxel; and by
one-sided differences everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product

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
    return _determinant(_jacobian(disp))


def _determinant(j: Tensor) -> Tensor:
    if j.shape[-1] == 2:
        return j[..., 0, 0] * j[..., 1, 1] - j[..., 0, 1] * j[..., 1, 0]
    normal: Tensor = torch.linalg.cross(j[..., 1, :], j[..., 2, :])
    return (j[..., 0, :] * normal).sum(-1)


def digital_jacobian(disp: Tensor, blocks: Sequence[int]) -> Tensor:
    """disp (N, ndim, *spatial) -> (N, *spatial // blocks): the least of all one-sided ones and of the tetrahedra
    between, in every block of voxels.

    The determinant is linear in every column: that of central differences is the mean of the one-sided, never the
    least.
    """
    ndim = disp.shape[1]
    columns = [
        [side + unit.view(-1, *[1] * ndim) for side in _one_sided(disp, 2 + axis)]
        for axis, unit in enumerate(torch.eye(ndim, dtype=disp.dtype, device=disp.device))
    ]
    result = reduce(torch.minimum, (_determinant(torch.stack(j, -1).movedim(1, -2)) for j in product(*columns)))
    if ndim == 3:
        cubes = result[:, :-1, :-1, :-1]
        cubes.copy_(reduce(torch.minimum, _middles(disp), cubes))
    for axis, side in enumerate(blocks, 1):
        result = result.unfold(axis, side, side).amin(-1)
    return result


def _one_sided(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Backward and forward differences, each the other where its neighbour is missing; 0 along an axis of one voxel."""
    size = x.shape[axis]
    if size == 1:
        return torch.zeros_like(x), torch.zeros_like(x)
    steps = x.diff(dim=axis)
    return (
        torch.cat([steps.narrow(axis, 0, 1), steps], axis),
        torch.cat([steps, steps.narrow(axis, size - 2, 1)], axis),
    )


def _middles(disp: Tensor) -> list[Tensor]:
    """(N, D - 1, H - 1, W - 1) each: the tetrahedra in the middle of every cube, over their volume in the grid.

    A cube is cut into five tetrahedra in two ways. The four at corners are one-sided determinants; that in the middle
    has the other four corners: an edge from one of them differs from the grid's by the displacements at its ends.
    """

    def corner(*at: int) -> Tensor:
        z, y, x = (slice(i, i - 1 or None) for i in at)
        return disp[:, :, z, y, x]

    edges = 1 - torch.eye(3, dtype=disp.dtype, device=disp.device)
    ends = [(0, 1, 1), (1, 0, 1), (1, 1, 0)]
    first = [corner(*end) - corner(0, 0, 0) for end in ends]
    last = [corner(1, 1, 1) - corner(*(1 - i for i in end)) for end in ends]
    # Of the grid's own edges the determinant is 2.
    return [_determinant(torch.stack(change, -1).movedim(1, -2) + edges) / 2 for change in (first, last)]


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
