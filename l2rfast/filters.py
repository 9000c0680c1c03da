"""Smoothing of images and displacement fields."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator
from .kernels.box import reference

PADDINGS = ("border", "extended", "zeros")


def _fake(image: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    return torch.empty_like(image, memory_format=torch.contiguous_format)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.radius, ctx.passes, ctx.padding = inputs


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _box_average_backward(grad, ctx.radius, ctx.passes, ctx.padding), None, None, None


_box_average_backward = Operator(reference.box_average_backward, fake=_fake)
_box_average = Operator(reference.box_average, fake=_fake, backward=_gradient, setup_context=_context)


def box_average(image: Tensor, radius: int = 1, *, passes: int = 1, padding: str = "border") -> Tensor:
    """Average over boxes of ``2 * radius + 1`` voxels a side, ``passes`` times.

    Args:
        image: (N, C, *spatial), 2-D or 3-D, floating; a displacement field as well.
        radius: half-width of the box in voxels, at least 0.
        passes: how often; three passes are close to a Gaussian of variance ``passes * radius * (radius + 1) / 3``.
        padding: ``"border"`` repeats the border for every pass, ``"extended"`` once, before all of them, and
            ``"zeros"`` counts zeros outside.

    Returns:
        The averages, of the same shape and dtype. Differentiable.

    Raises:
        InputError: a wrong shape or dtype, a negative radius or number of passes, an unknown padding.
    """
    _check.image("image", image)
    _check.at_least("radius", radius, 0)
    _check.at_least("passes", passes, 0)
    _check.choice("padding", padding, PADDINGS)
    if radius == 0 or passes == 0:
        return image.clone()
    result: Tensor = _box_average(image.to(_check.arithmetic_dtype(image)), radius, passes, padding)
    return result.to(image.dtype)
