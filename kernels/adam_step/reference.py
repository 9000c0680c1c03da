"""A step against the gradient of a displacement field, as by Adam, but of one length for all axes: the definition."""

from __future__ import annotations

from torch import Tensor


def adam_step(
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    factor: Tensor,
    beta: float,
    done: int,
    rate: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """gradient and mean (N, ndim, *spatial), square and factor (N, 1, *spatial): the next square, and the step."""
    square = beta * square + (1 - beta) * gradient.square().sum(1, keepdim=True)
    length = (square / (1 - beta**done)).sqrt() + eps
    return square, -rate * factor / length * mean
