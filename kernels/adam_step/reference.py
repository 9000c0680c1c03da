"""A step against the gradient of a displacement field, as by Adam, but of one length for all axes: the definition."""

from __future__ import annotations

from torch import Tensor


def adam_step(
    gradient: Tensor, mean: Tensor, square: Tensor, factor: Tensor, numbers: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """gradient and mean (N, ndim, *spatial), square and factor (N, 1, *spatial): the next square, and the step.

    numbers (3,) float64: how many steps are done with this one, the rate, and eps. They change from step to step, and
    are beside the fields, so that a step that was recorded on a GPU can be played again.
    """
    done, rate, eps = numbers.unbind()
    square = beta * square + (1 - beta) * gradient.square().sum(1, keepdim=True)
    length = (square / (1 - beta**done)).sqrt() + eps
    return square, -rate * factor / length * mean
