"""Correlation over a lattice of displacements: the definition.

    cost(n, e, g) = sum over c of metric(fixed(n, c, g), moving(n, c, p(g) + s(e)))

at control points p(g) for displacements s(e), both tensor products of positions along the axes, in voxels of
moving. Metric "ssd": (f - m)^2; "dot": f m. Samples between voxels are linear, those outside take the border. With
"ssd" this is the correlation layer of PDD-Net (Heinrich, "Closing the gap between deep and conventional image
registration using probabilistic dense displacement networks", MICCAI 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.constants import numbers
from ..common.sampling import arithmetic_dtype


def _split(values: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """What stands one after the other, axis by axis."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [list(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]


class Taps(NamedTuple):
    """Of samples along an axis: the voxels before and behind each, and the weight of the latter."""

    first: Tensor
    second: Tensor
    weight: Tensor

    def by_axis(self, axis: int, like: Tensor) -> Tensor:
        """The weight, to be multiplied with values of which that axis holds the samples."""
        return self.weight.view(-1, *[1] * (like.ndim - axis - 1))


def _taps(positions: Tensor, size: int) -> Taps:
    inside = positions.clamp(0, size - 1)
    first = inside.floor().clamp(max=max(size - 2, 0))
    return Taps(first.long(), (first + 1).clamp(max=size - 1).long(), inside - first)


def _axes(
    moving: Tensor, points: Sequence[float], shifts: Sequence[float], grid: Sequence[int], search: Sequence[int]
) -> list[list[Taps]]:
    """For each axis, the taps of every displacement along it."""
    axes = []
    for at, by, size in zip(_split(points, grid), _split(shifts, search), moving.shape[2:], strict=True):
        centres = numbers(at, moving)
        axes.append([_taps(centres + s, size) for s in by])
    return axes


def _samples(values: Tensor, axes: list[list[Taps]], axis: int = 2) -> Iterator[tuple[list[Taps], Tensor]]:
    """Those of every displacement, in raster order, and their taps along each axis."""
    if axis == values.ndim:
        yield [], values
        return
    for taps in axes[axis - 2]:
        weight = taps.by_axis(axis, values)
        along = (1 - weight) * values.index_select(axis, taps.first) + weight * values.index_select(axis, taps.second)
        for rest, sample in _samples(along, axes, axis + 1):
            yield [taps, *rest], sample


def _spread(values: Tensor, axes: list[Taps], size: Sequence[int]) -> Tensor:
    """The adjoint of sampling."""
    for axis, taps in enumerate(axes, 2):
        weight = taps.by_axis(axis, values)
        to = values.new_zeros([*values.shape[:axis], size[axis - 2], *values.shape[axis + 1 :]])
        to.index_add_(axis, taps.first, (1 - weight) * values)
        values = to.index_add_(axis, taps.second, weight * values)
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
    for _, m in _samples(moving, _axes(moving, points, shifts, grid, search)):
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
    for g, (taps, m) in zip(
        torch.split(grads, 1, 1), _samples(moving, _axes(moving, points, shifts, grid, search)), strict=True
    ):
        along = 2 * g * (fixed - m)
        by_fixed += g * m if metric == "dot" else along
        by_moving += _spread(g * fixed if metric == "dot" else -along, taps, moving.shape[2:])
    return by_fixed if to_fixed else fixed.new_empty(0), by_moving if to_moving else moving.new_empty(0)
