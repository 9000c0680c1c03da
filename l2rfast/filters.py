"""Smoothing of images and displacement fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _check
from ._dispatch import Operator
from .kernels.blocks import reference as of_blocks
from .kernels.box import reference
from .kernels.symmetric_filter import reference as symmetric

PADDINGS = ("border", "extended", "zeros")


def _fake(image: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    return torch.empty_like(image, memory_format=torch.contiguous_format)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.radius, ctx.passes, ctx.padding = inputs


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _box_average_backward(grad, ctx.radius, ctx.passes, ctx.padding), None, None, None


def _fake_blocks(image: Tensor, blocks: Sequence[int]) -> Tensor:
    return image.new_empty((*image.shape[:2], *(n // s for n, s in zip(image.shape[2:], blocks, strict=True))))


def _blocks_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, ctx.blocks = inputs
    ctx.size = image.shape[2:]


def _blocks_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    ends: list[int] = []
    for axis, (side, n) in enumerate(zip(ctx.blocks, ctx.size, strict=True), 2):
        grad = (grad / side).repeat_interleave(side, axis)
        ends = [0, n - grad.shape[axis], *ends]
    return F.pad(grad, ends), None


def _fake_filter(image: Tensor, half: list[float]) -> Tensor:
    return torch.empty_like(image, memory_format=torch.contiguous_format)


def _filter_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.half = inputs[1]


def _filter_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _symmetric_filter(grad, ctx.half), None


_symmetric_filter = Operator(
    symmetric.symmetric_filter, fake=_fake_filter, backward=_filter_gradient, setup_context=_filter_context
)
_block_average = Operator(
    of_blocks.block_average, fake=_fake_blocks, backward=_blocks_gradient, setup_context=_blocks_context
)
_box_average_backward = Operator(reference.box_average_backward, fake=_fake)
_box_average = Operator(reference.box_average, fake=_fake, backward=_gradient, setup_context=_context)


def block_average(image: Tensor, blocks: int | Sequence[int]) -> Tensor:
    """Average over blocks of voxels, which do not overlap: an image, or a field, at a lower resolution.

    Args:
        image: (N, C, *spatial), 2-D or 3-D, floating.
        blocks: of so many voxels along every axis, or along all; voxels at the end that fill none are left out.

    Returns:
        (N, C, *spatial // blocks) in the image's dtype; the same bits for any number of threads. Differentiable, as
        often as asked.

    Raises:
        InputError: a wrong shape or dtype, or blocks that are larger than the grid.
    """
    _check.image("image", image)
    sides = _check.blocks(blocks, image.shape[2:])
    result: Tensor = _block_average(image.to(_check.arithmetic_dtype(image)), sides)
    return result.to(image.dtype)


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
    radius = _check.at_least("radius", radius, 0)
    passes = _check.at_least("passes", passes, 0)
    _check.choice("padding", padding, PADDINGS)
    if radius == 0 or passes == 0:
        return image.clone()
    result: Tensor = _box_average(image.to(_check.arithmetic_dtype(image)), radius, passes, padding)
    return result.to(image.dtype)


def gaussian_filter(image: Tensor, sigma: float) -> Tensor:
    """Smooth by a Gaussian that ends at three standard deviations, as label-reg's losses do (Hu et al., MedIA 2018).

    Args:
        image: (N, C, *spatial), 2-D or 3-D, floating.
        sigma: standard deviation in voxels, at least 0. The kernel reaches ``int(3 * sigma)`` voxels and sums to 1;
            what lies outside the image counts as 0. Below 1/3 it is the identity.

    Returns:
        The same shape and dtype, exact to rounding: every tap is added. Differentiable, as often as asked.

    Raises:
        InputError: a wrong shape or dtype, or a sigma that is negative, not finite or above 21,845.
    """
    _check.image("image", image)
    sigma = _check.not_negative("sigma", sigma, most=_check.LONGEST // 3)
    reach = int(3 * sigma)
    if reach == 0:
        return image.clone()
    half = [math.exp(-0.5 * (t / sigma) ** 2) for t in range(reach + 1)]
    total = half[0] + 2 * sum(half[1:])
    result: Tensor = _symmetric_filter(image.to(_check.arithmetic_dtype(image)), [value / total for value in half])
    return result.to(image.dtype)
