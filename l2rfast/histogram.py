"""Joint histograms of the intensities of two images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator, once_differentiable
from .errors import InputError
from .kernels.joint_histogram import reference

WINDOWS = ("gaussian", "cubic", "box")
NARROWEST = 0.01  # standard deviation of a Gaussian, in bins


def _fake(a: Tensor, b: Tensor, weight: Tensor | None, bins: int, *_: Any) -> Tensor:
    return a.new_empty((a.shape[0], bins, bins), dtype=torch.float64)


def _fake_backward(grad: Tensor, a: Tensor, b: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    to_a, to_b = options[-2:]
    return a.new_empty(a.shape if to_a else (0,)), b.new_empty(b.shape if to_b else (0,))


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, weight, *ctx.options = inputs
    ctx.weighted = weight is not None
    ctx.save_for_backward(a, b, *([weight] if ctx.weighted else []))


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    once_differentiable("joint_histogram")
    a, b, *rest = ctx.saved_tensors
    needed = ctx.needs_input_grad[:2]
    gradients = _joint_histogram_backward(grad, a, b, rest[0] if ctx.weighted else None, *ctx.options, *needed)
    return *(g if n else None for g, n in zip(gradients, needed, strict=True)), *[None] * (1 + len(ctx.options))


_joint_histogram_backward = Operator(reference.joint_histogram_backward, fake=_fake_backward)
_joint_histogram = Operator(reference.joint_histogram, fake=_fake, backward=_gradient, setup_context=_context)


def joint_histogram(
    a: Tensor,
    b: Tensor,
    *,
    bins: int,
    window: str | Sequence[str] = "gaussian",
    sigma: float = 0.5,
    weight: Tensor | None = None,
) -> Tensor:
    """The joint histogram of two images' intensities, every voxel spread over the bins near it by Parzen windows.

        out[n, i, j] = sum over voxels of weight * p_i(a) * q_j(b) / sum of the weights

    where a voxel's p and q are the windows about every bin at its intensities, each divided by its sum over the bins.

    Args:
        a, b: (N, *any) of one shape, floating, in units of bins: bin i is at i. What lies below 0 or above bins - 1
            counts as lying there, and has no gradient.
        bins: how many there are for each image, at least 1.
        window: of both images, or one for each:

            ============  =============================================================================================
            ``gaussian``  of standard deviation ``sigma`` (Guo, Multi-modal image registration with unsupervised deep
                          learning, MIT 2019; also DeepReg's and MONAI's, with half a bin)
            ``cubic``     cubic B-spline, four bins wide (Mattes et al., IEEE TMI 2003)
            ``box``       one bin wide, two share a voxel half-way between them; its gradient is 0
            ============  =============================================================================================
        sigma: in bins, at least 0.01.
        weight: of every voxel, in the shape of the images, numbers not below 0 or bool. None: 1.

    Returns:
        (N, bins, bins), axis 1 for a, in float64 whatever the images: it is small, and logarithms are taken of it. Its
        marginals are the histograms of a and of b, and it sums to 1. Differentiable once, in a and b. NaN throughout
        for an item where a voxel is NaN or no voxel has a weight.

    Raises:
        InputError: shapes, dtypes or devices that differ, a parameter out of range, a weight that requires a gradient.
    """
    for name, image in (("a", a), ("b", b)):
        _check.tensor(name, image)
        if image.ndim < 2 or image.numel() == 0 or not _check.is_floating(image):
            raise InputError(f"{name}: expected a floating tensor (N, *any), got {image.dtype} {tuple(image.shape)}")
    _check.same("a, b", a, b)
    bins = _check.at_least("bins", bins, 1)
    windows: list[Any] = list(window) if isinstance(window, list | tuple) else [window] * 2
    if len(windows) != 2:
        raise InputError(f"window: expected one, or one for each image, got {window!r}")
    for name in windows:
        _check.choice("window", name, WINDOWS)
    sigma = _check.plain(sigma)
    if not (_check.is_number(sigma) and sigma >= NARROWEST):
        raise InputError(f"sigma: expected a number of at least {NARROWEST}, got {sigma!r}")
    dtype = _check.arithmetic_dtype(a)
    if weight is not None:
        _check.tensor("weight", weight)
        if weight.shape != a.shape or weight.device != a.device or weight.is_complex():
            raise InputError(
                f"weight: expected real numbers of shape {tuple(a.shape)} on {a.device}, got {weight.dtype} "
                f"{tuple(weight.shape)} on {weight.device}"
            )
        if weight.requires_grad:
            raise InputError("weight: no gradient to it is implemented; detach it")
        weight = weight.to(dtype)
    sums: Tensor = _joint_histogram(a.to(dtype), b.to(dtype), weight, bins, *windows, float(sigma))
    return sums / sums.detach().sum((1, 2), keepdim=True)
