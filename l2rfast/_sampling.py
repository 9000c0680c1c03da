"""What the operations that sample images share: their checks, and how they are differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator, once_differentiable
from .errors import InputError
from .kernels.common.sampling import arithmetic_dtype

PADDINGS = ("border", "zeros", "reflection")


def check(image: Tensor, where: Tensor, names: str, ndim: int, *, floating: bool) -> None:
    """What every sampler asks of its image, beside what says where to sample it."""
    if _check.image(names.split(",")[0], image, floating=floating) != ndim:
        raise InputError(f"{names}: expected as many spatial axes, got {image.ndim - 2} and {ndim}")
    if image.shape[0] != where.shape[0] and 1 not in (image.shape[0], where.shape[0]):
        raise InputError(f"{names}: expected one batch size, or 1, got {image.shape[0]} and {where.shape[0]}")
    if image.device != where.device:
        raise InputError(f"{names}: expected one device, got {image.device} and {where.device}")


def one_precision(image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 if one is: positions are as exact as the wider of the two."""
    if torch.float64 not in (image.dtype, where.dtype):
        return image, where
    return image.double() if image.is_floating_point() else image, where.double()


def fake_like(image: Tensor, where: Tensor, size: Sequence[int]) -> Tensor:
    return image.new_empty((max(image.shape[0], where.shape[0]), image.shape[1], *size))


def fake_backward(grad: Tensor, image: Tensor, where: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    to_image, to_where = options[-2:]
    real = arithmetic_dtype(where)
    return image.new_empty(image.shape if to_image else (0,), dtype=real), where.new_empty(
        where.shape if to_where else (0,)
    )


def context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, where, *ctx.options = inputs
    ctx.save_for_backward(image, where)


def gradient(backward: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The autograd formula of an operator (image, where, *options)."""

    def formula(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, where = ctx.saved_tensors
        to_image, to_where = (asked and image.is_floating_point() for asked in ctx.needs_input_grad[:2])
        rest = [None] * len(ctx.options)
        if not (to_image or to_where):
            return None, None, *rest
        by_image, by_where = backward(grad, image, where, *ctx.options, to_image, to_where)
        return by_image.to(image.dtype) if to_image else None, by_where if to_where else None, *rest

    return formula


def once(name: str, backward: Operator) -> Callable[..., tuple[Tensor, Tensor]]:
    """A backward without a derivative of its own."""

    def run(*args: Any) -> tuple[Tensor, Tensor]:
        once_differentiable(name)
        result: tuple[Tensor, Tensor] = backward(*args)
        return result

    return run
