"""Correlation over a lattice of displacements: the definition.

    cost(n, e, g) = sum over c of metric(fixed(n, c, g), moving(n, c, p(g) + s(e)))

at control points p(g) for displacements s(e), both tensor products of positions along the axes, in voxels of
moving. Metric "ssd": (f - m)^2; "dot": f m. Samples between voxels are linear, those outside take the border. With
"ssd" this is the correlation layer of PDD-Net (Heinrich, "Closing the gap between deep and conventional image
registration using probabilistic dense displacement networks", MICCAI 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from ..common.sampling import arithmetic_dtype


def _split(values: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """What stands one after the other, axis by axis."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [list(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def _interpolation(positions: Tensor, size: int) -> Tensor:
    """(P,) -> the matrix (P, size) that samples a line there."""
    inside = positions.clamp(0, size - 1)
    return (1 - (inside[:, None] - torch.arange(size).to(inside)).abs()).clamp(min=0)


def _matrices(
    moving: Tensor, points: Sequence[float], shifts: Sequence[float], grid: Sequence[int], search: Sequence[int]
) -> Iterator[list[Tensor]]:
    """For every displacement, in raster order, a matrix (points, size) for each axis."""
    axes = []
    for at, by, size in zip(_split(points, grid), _split(shifts, search), moving.shape[2:], strict=True):
        centres = torch.tensor(at, dtype=moving.dtype, device=moving.device)
        axes.append([_interpolation(centres + s, size) for s in by])
    for choice in product(*axes):
        yield list(choice)


def _apply(values: Tensor, matrices: list[Tensor]) -> Tensor:
    """One matrix for each spatial axis."""
    for axis, matrix in enumerate(matrices):
        values = (values.movedim(2 + axis, -1).unsqueeze(-2) * matrix).sum(-1).movedim(-1, 2 + axis)
    return values


def lattice_correlation(
    fixed: Tensor, moving: Tensor, points: Sequence[float], shifts: Sequence[float], search: Sequence[int], metric: str
) -> Tensor:
    """fixed (N, C, *grid) at the control points, moving (N, C, *size) -> (N, *search, *grid).

    points, shifts: the positions along the axes, one axis after the other.
    """
    grid, dtype = list(fixed.shape[2:]), fixed.dtype
    fixed, moving = (features.to(arithmetic_dtype(fixed)) for features in (fixed, moving))
    costs = []
    for matrices in _matrices(moving, points, shifts, grid, search):
        m = _apply(moving, matrices)
        costs.append((fixed * m if metric == "dot" else (fixed - m) ** 2).sum(1))
    return torch.stack(costs, 1).reshape(fixed.shape[0], *search, *grid).to(dtype)


def lattice_correlation_backward(
    grad: Tensor,
    fixed: Tensor,
    moving: Tensor,
    points: Sequence[float],
    shifts: Sequence[float],
    search: Sequence[int],
    metric: str,
    to_fixed: bool,
    to_moving: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients to fixed and moving, in the dtype of the arithmetic; empty where not asked for."""
    grid = list(fixed.shape[2:])
    grad, fixed, moving = (t.to(arithmetic_dtype(fixed)) for t in (grad, fixed, moving))
    by_fixed, by_moving = torch.zeros_like(fixed), torch.zeros_like(moving)
    grads = grad.reshape(fixed.shape[0], -1, *grid)
    for i, matrices in enumerate(_matrices(moving, points, shifts, grid, search)):
        g, m = grads[:, i : i + 1], _apply(moving, matrices)
        along = 2 * g * (fixed - m)
        by_fixed += g * m if metric == "dot" else along
        by_moving += _apply(g * fixed if metric == "dot" else -along, [matrix.T for matrix in matrices])
    return by_fixed if to_fixed else fixed.new_empty(0), by_moving if to_moving else moving.new_empty(0)
