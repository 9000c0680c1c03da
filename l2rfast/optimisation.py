"""Steps along the gradients of displacement fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator
from .errors import InputError
from .kernels.adam_step import reference


def _fake(gradient: Tensor, mean: Tensor, square: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return square.new_empty(square.shape), mean.new_empty(mean.shape)


_adam_step = Operator(reference.adam_step, fake=_fake)


def adam_step(
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    factor: Tensor,
    *,
    done: int | Tensor,
    rate: float | Tensor,
    beta: float = 0.999,
    eps: float | Tensor = 1e-8,
) -> tuple[Tensor, Tensor]:
    """A step against the gradient of a displacement field, as by Adam, but of one length for all axes, in one pass.

        square <- beta square + (1 - beta) |gradient|^2
        step    = -rate factor mean / (root(square / (1 - beta^done)) + eps)

    Kingma and Ba, ICLR 2015, algorithm 1, where every number has a length of its own: fields would turn towards the
    diagonals of the grid.

    Args:
        gradient: (N, ndim, *spatial), floating.
        mean: of the gradients so far, this one included, of the same shape; the gradient itself where there is no
            momentum. Its bias is for the caller to correct.
        square: (N, 1, *spatial), zeros at first.
        factor: (N, 1, *spatial), of each voxel's step.
        done: steps, with this one.
        rate: of a step, in the field's unit.
        beta: what remains of the square.
        eps: beside the root, in the gradient's unit. It, ``rate`` and ``done`` may be tensors of one number on the
            device of the gradient, which nothing looks at before the step: the host waits for none.

    Returns:
        The next square, and the step; new tensors. Not differentiable.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or numbers out of range.
    """
    _check.field("gradient", gradient)
    _check.field("mean", mean)
    _check.same("gradient, mean", gradient, mean)
    for name, of in (("square", square), ("factor", factor)):
        _check.image(name, of)
        _check.same(f"gradient, {name}", gradient[:, :1], of)
    numbers = torch.stack(
        [
            _number("done", done, gradient, partial(_check.at_least, minimum=1, most=math.inf)),
            _number("rate", rate, gradient, _check.not_negative),
            _number("eps", eps, gradient, _check.not_negative),
        ]
    )
    beta = _check.not_negative("beta", beta)
    if beta >= 1:
        raise InputError(f"beta: expected a number below 1, got {beta!r}")
    dtype = _check.arithmetic_dtype(gradient)
    after, step = _adam_step(*(one.to(dtype) for one in (gradient, mean, square, factor)), numbers, beta)
    return after.to(gradient.dtype), step.to(gradient.dtype)


def _number(name: str, value: float | Tensor, like: Tensor, checked: Callable[[str, Any], float]) -> Tensor:
    """As a tensor () of float64 beside another; one that is a tensor is not looked at."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(f"{name}: expected one number, got a tensor {tuple(value.shape)}")
        if value.device != like.device:
            raise InputError(f"{name}: expected a tensor on {like.device}, got one on {value.device}")
        return value.reshape(()).double()
    return torch.full((), checked(name, value), dtype=torch.float64, device=like.device)
