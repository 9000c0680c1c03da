"""Min-convolution of a cost volume over its displacements: the definition.

    exact:   out(d, x) = min over e of cost(e, x) + weight * |d - e|^2,   d, e in steps of the search grid
    pooled:  minima over |d - e|_k <= 1, then two averages of width 3 over d, all of the costs with their border
             repeated without end

The first is the lower envelope of parabolas, one axis after the other (Felzenszwalb and Huttenlocher, "Distance
transforms of sampled functions", Theory of Computing 2012); of equal minima along an axis the first counts. The second
is its approximation in PDD-Net (Heinrich, MICCAI 2019). An infinite cost forbids a displacement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.sampling import arithmetic_dtype


class Steps(NamedTuple):
    """What a min-convolution is made of, along one axis.

    Attributes:
        least: (cost, axis, weight) -> the minima of cost + weight * |d - e|^2 over e, and where they are; without a
            weight, of the neighbours of positions -2 ... size + 1, the border repeated.
        returned: (grad, where, axis, size) -> to each of the `size` costs, what its minima received.
    """

    least: Callable[[Tensor, int, Tensor | None], tuple[Tensor, Tensor]]
    returned: Callable[[Tensor, Tensor, int, int], Tensor]


def _penalty(size: int, weight: Tensor | None, like: Tensor) -> Tensor:
    """(out, in)."""
    e = torch.arange(size, device=like.device)
    if weight is not None:
        return weight * (e[:, None] - e) ** 2
    centre = torch.arange(-2, size + 2, device=like.device)[:, None]
    near = (e >= (centre - 1).clamp(0, size - 1)) & (e <= (centre + 1).clamp(0, size - 1))
    return torch.where(near, 0.0, torch.inf).to(like.dtype)


def _least(cost: Tensor, axis: int, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    line, minima, places = cost.movedim(axis, -1), [], []
    for penalty in _penalty(line.shape[-1], weight, cost):
        totals = line + penalty
        where = totals.argmin(-1, keepdim=True)
        minima.append(totals.gather(-1, where))
        places.append(where)
    return torch.cat(minima, -1).movedim(-1, axis), torch.cat(places, -1).movedim(-1, axis)


def _returned(grad: Tensor, where: Tensor, axis: int, size: int) -> Tensor:
    shape = [*grad.shape[:axis], size, *grad.shape[axis + 1 :]]
    return grad.new_zeros(shape).scatter_add_(axis, where, grad)


def _averaged(cost: Tensor, axis: int) -> Tensor:
    """Two averages of width 3, where the line has them."""
    for _ in range(2):
        cost = cost.unfold(axis, 3, 1).mean(-1)
    return cost


def _spread(grad: Tensor, axis: int) -> Tensor:
    """Its adjoint."""
    line = grad.movedim(axis, -1)
    for _ in range(2):
        line = F.pad(line, [2, 2]).unfold(-1, 3, 1).mean(-1)
    return line.movedim(-1, axis)


def _axes(cost: Tensor) -> range:
    return range(1, 1 + (cost.ndim - 1) // 2)


def exact(cost: Tensor, weight: Tensor, steps: Steps) -> Tensor:
    dtype, cost = cost.dtype, cost.to(arithmetic_dtype(cost))
    for axis in _axes(cost):
        cost, _ = steps.least(cost, axis, weight.to(cost.dtype))
    return cost.to(dtype)


def exact_backward(grad: Tensor, cost: Tensor, weight: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    grad, cost = (t.to(arithmetic_dtype(cost)) for t in (grad, cost))
    minima = []
    for axis in _axes(cost):
        cost, where = steps.least(cost, axis, weight.to(cost.dtype))
        minima.append((axis, where))
    grad = torch.where(cost.isinf(), 0, grad)
    to_weight = grad.new_zeros(())
    for axis, where in reversed(minima):
        size = grad.shape[axis]
        places = torch.arange(size, device=grad.device).view(-1, *[1] * (grad.ndim - axis - 1))
        to_weight = to_weight + (grad * (places - where) ** 2).sum()
        grad = steps.returned(grad, where, axis, size)
    return grad, to_weight


def pooled(cost: Tensor, steps: Steps) -> Tensor:
    dtype, cost = cost.dtype, cost.to(arithmetic_dtype(cost))
    for axis in _axes(cost):
        cost, _ = steps.least(cost, axis, None)
    for axis in _axes(cost):
        cost = _averaged(cost, axis)
    return cost.to(dtype)


def pooled_backward(grad: Tensor, cost: Tensor, steps: Steps) -> Tensor:
    grad, cost = (t.to(arithmetic_dtype(cost)) for t in (grad, cost))
    minima = []
    for axis in _axes(cost):
        size = cost.shape[axis]
        cost, where = steps.least(cost, axis, None)
        minima.append((axis, where, size))
    for axis in _axes(cost):
        grad = _spread(grad, axis)
    for axis, where, size in reversed(minima):
        grad = steps.returned(grad, where, axis, size)
    return grad


_STEPS = Steps(_least, _returned)


def min_convolution(cost: Tensor, weight: Tensor) -> Tensor:
    """cost (N, *search, *spatial), weight () -> the same shape."""
    return exact(cost, weight, _STEPS)


def min_convolution_backward(grad: Tensor, cost: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to cost and weight, in the dtype of the arithmetic; none comes from where all is forbidden."""
    return exact_backward(grad, cost, weight, _STEPS)


def pooled_min_convolution(cost: Tensor) -> Tensor:
    """cost (N, *search, *spatial) -> the same shape."""
    return pooled(cost, _STEPS)


def pooled_min_convolution_backward(grad: Tensor, cost: Tensor) -> Tensor:
    """Gradient to cost, in the dtype of the arithmetic."""
    return pooled_backward(grad, cost, _STEPS)
