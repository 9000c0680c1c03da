"""Distances between images, and what makes a displacement field smooth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator, needs_gradient, once_differentiable
from .errors import InputError
from .kernels.lncc import reference as lncc_reference
from .kernels.warp_ssd import reference as warp_ssd_reference
from .transforms import warp


def _fake_warp_ssd(fixed: Tensor, moving: Tensor, disp: Tensor) -> tuple[Tensor, Tensor]:
    return disp.new_empty(disp.shape[0]), disp.new_empty(disp.shape)


def _warp_ssd_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _warp_ssd_gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, None, Tensor]:
    once_differentiable("warp_ssd")
    (gradient,) = ctx.saved_tensors
    return None, None, grad.view(-1, *[1] * (gradient.ndim - 1)) * gradient


def _fake_local_ncc(
    a: Tensor, b: Tensor, radius: int, eps: float, to_a: bool, to_b: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        a.new_empty(a.shape[0]),
        a.new_empty(a.shape if to_a else (0,)),
        b.new_empty(b.shape if to_b else (0,)),
    )


def _local_ncc_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _local_ncc_gradient(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    once_differentiable("local_ncc")
    gradients = (
        grad.view(-1, *[1] * (g.ndim - 1)) * g if needed else None
        for g, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True)
    )
    return *gradients, None, None, None, None


_local_ncc = Operator(
    lncc_reference.local_ncc,
    fake=_fake_local_ncc,
    backward=_local_ncc_gradient,
    setup_context=_local_ncc_context,
)
_warp_ssd = Operator(
    warp_ssd_reference.warp_ssd,
    fake=_fake_warp_ssd,
    backward=_warp_ssd_gradient,
    setup_context=_warp_ssd_context,
)


def warp_ssd(fixed: Tensor, moving: Tensor, disp: Tensor) -> tuple[Tensor, Tensor]:
    """Squared differences between fixed and the warped moving image, without storing the warped image.

    Args:
        fixed: (N, C, *out) image or features, floating. Fastest in ``torch.channels_last_3d`` layout with a
            multiple of 16 channels (zero channels change nothing).
        moving: (N, C, *in) of the same dtype and layout.
        disp: (N, ndim, *out) displacement field in voxels of moving, of the same dtype.

    Returns:
        The loss (N,), the mean over voxels of the sum over channels, differentiable by disp; and its gradient,
        (N, ndim, *out), itself for optimisers that do without autograd. Border padding as in `warp`.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or a fixed or moving that requires a gradient.
    """
    ndim = _check.field("disp", disp)
    for name, image in (("fixed", fixed), ("moving", moving)):
        if _check.image(name, image) != ndim or image.shape[0] != disp.shape[0]:
            raise InputError(f"{name}, disp: expected shapes that fit, got {tuple(image.shape)}, {tuple(disp.shape)}")
        _check.same(f"{name}, disp", image, disp, shape=False)
        if image.requires_grad:
            raise InputError(f"{name}: no gradient to it is implemented; detach it")
    if fixed.shape[2:] != disp.shape[2:] or fixed.shape[1] != moving.shape[1]:
        raise InputError(
            f"fixed: expected the channels of moving and the spatial shape of disp, got {tuple(fixed.shape)}"
        )
    dtype = _check.arithmetic_dtype(disp)
    loss, gradient = _warp_ssd(fixed.to(dtype), moving.to(dtype), disp.to(dtype))
    return loss.to(disp.dtype), gradient.to(disp.dtype)


def local_ncc(a: Tensor, b: Tensor, *, window: int = 9, eps: float = 1e-5) -> Tensor:
    """Squared local normalised cross-correlation in [0, 1], 1 where one image is locally linear in the other.

    Args:
        a, b: (N, C, *spatial) images of one shape, 2-D or 3-D, floating.
        window: odd side of the cubic window in voxels; windows cut by the border count zeros outside.
        eps: added to the product of the two variances, each a sum over the window (not a mean): what is below
            its square root counts as flat.

    Returns:
        The mean over batch, channels and voxels of cross^2 / (var_a * var_b + eps), as in VoxelMorph
        (Balakrishnan et al., TMI 2019): a scalar in the images' dtype. Differentiable in both; the gradients
        are made in the same pass, only those that are needed. Sums are over values less their mean, so that an
        offset common to the image costs no accuracy.

    Raises:
        InputError: shapes, dtypes or devices that differ, an even window, a negative eps.
    """
    _check.image("a", a)
    _check.image("b", b)
    _check.same("a, b", a, b)
    _check.at_least("window", window, 1)
    if window % 2 == 0:
        raise InputError(f"window: expected an odd number, got {window}")
    if not eps > 0:
        raise InputError(f"eps: expected a positive number, got {eps}")
    dtype = _check.arithmetic_dtype(a)
    value, _, _ = _local_ncc(a.to(dtype), b.to(dtype), window // 2, eps, needs_gradient(a), needs_gradient(b))
    mean: Tensor = value.mean()
    return mean.to(a.dtype)


def local_ncc_gradient(fixed: Tensor, moving: Tensor, disp: Tensor, *, window: int = 9, eps: float = 1e-5) -> Tensor:
    """Gradient of ``local_ncc(fixed, warp(moving, disp))`` to disp, for optimisers that do without autograd.

    Args:
        fixed: (N, C, *out), moving: (N, C, *in), disp: (N, ndim, *out) in voxels, all of one floating dtype.
        window, eps: as in `local_ncc`.

    Returns:
        (N, ndim, *out).
    """
    disp = disp.detach().requires_grad_()
    with torch.enable_grad():
        value = local_ncc(fixed.detach(), warp(moving.detach(), disp), window=window, eps=eps)
    return torch.autograd.grad(value, disp)[0]
