"""Warping and what is derived from a displacement field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator
from .errors import InputError
from .kernels.jacobian import reference as jacobian_reference
from .kernels.warp import reference

MODES = ("linear", "nearest")
PADDINGS = ("border", "zeros", "reflection")


def _fake_warp(image: Tensor, disp: Tensor, mode: str, padding: str) -> Tensor:
    return image.new_empty((image.shape[0], image.shape[1], *disp.shape[2:]))


def _fake_warp_backward(
    grad: Tensor, image: Tensor, disp: Tensor, mode: str, padding: str, to_image: bool, to_disp: bool
) -> tuple[Tensor, Tensor]:
    return (
        disp.new_empty(image.shape if to_image else (0,)),
        disp.new_empty(disp.shape if to_disp else (0,)),
    )


def _fake_affine_warp(image: Tensor, matrix: Tensor, size: list[int], mode: str, padding: str) -> Tensor:
    return image.new_empty((image.shape[0], image.shape[1], *size))


def _fake_jacobian_determinant(disp: Tensor) -> Tensor:
    return disp.new_empty((disp.shape[0], *disp.shape[2:]))


def _warp_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, disp, ctx.mode, ctx.padding = inputs
    ctx.save_for_backward(image, disp)


def _warp_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    image, disp = ctx.saved_tensors
    to_image, to_disp = ctx.needs_input_grad[:2]
    to_image = to_image and image.is_floating_point()
    to_disp = to_disp and image.is_floating_point()
    if not (to_image or to_disp):
        return None, None, None, None
    grad_image, grad_disp = _warp_backward(grad, image, disp, ctx.mode, ctx.padding, to_image, to_disp)
    return grad_image.to(image.dtype) if to_image else None, grad_disp if to_disp else None, None, None


_warp_backward = Operator(reference.warp_backward, fake=_fake_warp_backward)
_warp = Operator(reference.warp, fake=_fake_warp, backward=_warp_gradient, setup_context=_warp_context)
_affine_warp = Operator(reference.affine_warp, fake=_fake_affine_warp)
_jacobian_determinant = Operator(jacobian_reference.jacobian_determinant, fake=_fake_jacobian_determinant)


def warp(image: Tensor, disp: Tensor, *, mode: str = "linear", padding: str = "border") -> Tensor:
    """Sample an image at ``x + disp(x)``.

    Args:
        image: (N, C, *in), 2-D or 3-D; any floating dtype, or integers and booleans with ``mode="nearest"``.
        disp: (N, ndim, *out), floating, in voxels; component k moves along spatial axis k. ``*out`` may
            differ from ``*in``; the sample position of output voxel x is x + disp(x) in voxels of the image.
        mode: ``"linear"`` (bilinear, trilinear) or ``"nearest"`` (ties to the even voxel).
        padding: outside the image: ``"border"`` repeats the nearest voxel, ``"zeros"`` counts as 0,
            ``"reflection"`` mirrors about the centres of the first and last voxels.

    Returns:
        (N, C, *out) in the image's dtype. Positions are computed in float32, or in float64 when image or
        field is. A NaN or infinite displacement gives NaN there (0 in integer images) and no gradient.

    Differentiable in image and disp. Where the padding clamps a position, the gradient to disp is 0.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an unknown mode or padding.
    """
    ndim = _check.field("disp", disp)
    if _check.image("image", image, floating=mode == "linear") != ndim:
        raise InputError(f"image, disp: expected as many spatial axes, got {image.ndim - 2} and {ndim}")
    _check.choice("mode", mode, MODES)
    _check.choice("padding", padding, PADDINGS)
    if image.shape[0] != disp.shape[0]:
        raise InputError(f"image, disp: expected one batch size, got {image.shape[0]} and {disp.shape[0]}")
    if image.device != disp.device:
        raise InputError(f"image, disp: expected one device, got {image.device} and {disp.device}")
    dtype = _check.arithmetic_dtype(image, disp)
    result_dtype = image.dtype
    if dtype == torch.float64 and image.is_floating_point():
        image = image.double()
    result: Tensor = _warp(image, disp.to(dtype), mode, padding)
    return result.to(result_dtype)


def affine_warp(
    image: Tensor,
    matrix: Tensor,
    size: Sequence[int] | None = None,
    *,
    mode: str = "linear",
    padding: str = "border",
) -> Tensor:
    """Sample an image at an affine map of the output voxels, without a grid in memory.

    Args:
        image: (N, C, *in), as in `warp`.
        matrix: (N, ndim, ndim + 1), floating: output voxel -> voxel of the image.
        size: spatial size of the output; that of the image when None.
        mode, padding: as in `warp`.

    Returns:
        (N, C, *size) in the image's dtype; NaN where the matrix gives no finite position. Not differentiable yet.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, an unknown mode or padding.
    """
    ndim = _check.image("image", image, floating=mode == "linear")
    _check.choice("mode", mode, MODES)
    _check.choice("padding", padding, PADDINGS)
    size = list(image.shape[2:] if size is None else size)
    if len(size) != ndim or not all(isinstance(s, int) and s > 0 for s in size):
        raise InputError(f"size: expected {ndim} positive integers, got {size}")
    _check.tensor("matrix", matrix)
    if not matrix.is_floating_point() or matrix.shape != (image.shape[0], ndim, ndim + 1):
        raise InputError(
            f"matrix: expected a floating tensor of shape {(image.shape[0], ndim, ndim + 1)}, "
            f"got {matrix.dtype} {tuple(matrix.shape)}"
        )
    if image.device != matrix.device:
        raise InputError(f"image, matrix: expected one device, got {image.device} and {matrix.device}")
    dtype = _check.arithmetic_dtype(image, matrix)
    source = image.double() if dtype == torch.float64 and image.is_floating_point() else image
    result: Tensor = _affine_warp(source, matrix.to(dtype), size, mode, padding)
    return result.to(image.dtype)


def jacobian_determinant(disp: Tensor) -> Tensor:
    """Jacobian determinant of x + disp(x): the local change of volume; not positive where the map folds.

    Args:
        disp: (N, ndim, *spatial) displacement field in voxels, 2-D or 3-D, floating.

    Returns:
        (N, *spatial) in the field's dtype: central differences, one-sided at the border, none along an axis of one
        voxel. Not differentiable yet.

    Raises:
        InputError: a wrong shape or dtype.
    """
    _check.field("disp", disp)
    result: Tensor = _jacobian_determinant(disp.to(_check.arithmetic_dtype(disp)))
    return result.to(disp.dtype)
