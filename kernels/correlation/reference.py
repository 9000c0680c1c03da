"""Dense displacement correlation: the definition.

    cost(n, e, x) = sum over c of metric(fixed(n, c, x), moving(n, c, x + e))

for every displacement e whose component k is (i - radius_k) * dilation, i = 0 ... 2 radius_k; metric "ssd": (f - m)^2,
"sad": |f - m|, "dot": f m. Outside, moving is 0 or its border voxel. `smoothing` box averages of width 3 over x, zeros
outside, follow for each e: with "ssd" and 2 this is the cost volume of ConvexAdam (Siebert et al., "Fast 3D
registration with accurate optimisation and little learning", 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.sampling import arithmetic_dtype


def _padded(moving: Tensor, radius: Sequence[int], dilation: int, padding: str) -> Tensor:
    margins = [margin for r in reversed(radius) for margin in [r * dilation] * 2]
    return F.pad(moving, margins, mode="replicate" if padding == "border" else "constant")


def _shifted(padded: Tensor, radius: Sequence[int], dilation: int, size: Sequence[int]) -> Iterator[Tensor]:
    """The view of each displacement, in raster order."""
    for index in product(*(range(2 * r + 1) for r in radius)):
        view = padded
        for axis, i in enumerate(index):
            view = view.narrow(2 + axis, i * dilation, size[axis])
        yield view


def smoothed(volumes: Tensor, passes: int) -> Tensor:
    """(N, C, *spatial), averaged over boxes of 3 with zeros outside: its own adjoint."""
    average = F.avg_pool3d if volumes.ndim == 5 else F.avg_pool2d
    for _ in range(passes):
        volumes = average(F.pad(volumes, [1] * 2 * (volumes.ndim - 2)), 3, stride=1)
    return volumes


def correlation(
    fixed: Tensor, moving: Tensor, radius: Sequence[int], dilation: int, padding: str, smoothing: int, metric: str
) -> Tensor:
    """fixed, moving (N, C, *spatial) -> (N, *search, *spatial), 2 radius_k + 1 along search axis k."""
    size, dtype = fixed.shape[2:], fixed.dtype
    fixed, moving = (features.to(arithmetic_dtype(fixed)) for features in (fixed, moving))
    costs = []
    for m in _shifted(_padded(moving, radius, dilation, padding), radius, dilation, size):
        by_channel = {"ssd": lambda m: (fixed - m) ** 2, "sad": lambda m: (fixed - m).abs(), "dot": lambda m: fixed * m}
        cost = by_channel[metric](m).sum(1, keepdim=True)
        costs.append(smoothed(cost, smoothing))
    return torch.cat(costs, 1).reshape(fixed.shape[0], *[2 * r + 1 for r in radius], *size).to(dtype)


def correlation_backward(
    grad: Tensor,
    fixed: Tensor,
    moving: Tensor,
    radius: Sequence[int],
    dilation: int,
    padding: str,
    smoothing: int,
    metric: str,
    to_fixed: bool,
    to_moving: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients to fixed and moving, in the dtype of the arithmetic; empty where not asked for.

    Where two features are equal, that of their absolute difference is 0.
    """
    size = fixed.shape[2:]
    grad, fixed, moving = (t.to(arithmetic_dtype(fixed)) for t in (grad, fixed, moving))
    grads = smoothed(grad.reshape(fixed.shape[0], -1, *size), smoothing)
    padded = _padded(moving, radius, dilation, padding)
    by_fixed, by_padded = torch.zeros_like(fixed), torch.zeros_like(padded)
    shares = zip(
        _shifted(padded, radius, dilation, size),
        _shifted(by_padded, radius, dilation, size),
        torch.split(grads, 1, 1),
        strict=True,
    )
    for m, to_m, g in shares:
        if metric == "dot":
            by_fixed += g * m
            to_m += g * fixed
        else:
            along = g * (torch.sign(fixed - m) if metric == "sad" else 2 * (fixed - m))
            by_fixed += along
            to_m -= along
    return by_fixed if to_fixed else fixed.new_empty(0), (
        gathered(by_padded, moving.shape, padding) if to_moving else moving.new_empty(0)
    )


def gathered(padded: Tensor, shape: Sequence[int], padding: str) -> Tensor:
    """The adjoint of padding to that shape's double-sided margins."""
    for axis in range(2, padded.ndim):
        size = shape[axis]
        margin = (padded.shape[axis] - size) // 2
        inner = padded.narrow(axis, margin, size).clone()
        if padding == "border":
            inner.select(axis, 0).add_(padded.narrow(axis, 0, margin).sum(axis))
            inner.select(axis, size - 1).add_(padded.narrow(axis, margin + size, margin).sum(axis))
        padded = inner
    return padded
