"""Local normalised cross-correlation, also of a warped image in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator, needs_gradient, once_differentiable
from ._sampling import PADDINGS
from .errors import InputError
from .kernels.lncc import reference
from .kernels.warp_lncc import reference as warp_reference

WEIGHTINGS = ("box", "triangular", "gaussian")
REDUCTIONS = ("mean", "sum", "none")
BORDERS = ("zeros", "valid")
SEMANTICS = ("voxelmorph", "monai", "fireants")
WIDEST = 65_535  # voxels or blocks along an axis of a window: what is beyond an image costs memory too


class Windows(NamedTuple):
    """What the operators take: see `kernels.lncc.reference`."""

    window: list[int]
    weights: list[float]
    borders: str
    constants: list[float]
    averaged: bool


def _triangle(window: int, semantics: str) -> list[float]:
    """Of sum 1. MONAI and FireANTs narrow it where its half is even (windows of 3, 7, 11, ...)."""
    half = (window + 1) // 2
    if semantics != "voxelmorph" and half % 2 == 0:
        half -= 1
    return [max(half - abs(i - window // 2), 0) / half**2 for i in range(window)]


def _gaussian(window: int) -> list[float]:
    """Standard deviation window / 3, 1 at the centre, as MONAI's."""
    offsets = ((i - window // 2) / window for i in range(window))
    return [math.exp(-4.5 * offset * offset) for offset in offsets]


def _windows(
    ndim: int,
    window: int | Sequence[int],
    weighting: str,
    border: str,
    semantics: str,
    eps: float,
    smooth_nr: float,
    blocks: Sequence[int] | None = None,
) -> Windows:
    sides = _check.each_axis(window, ndim)
    each = [1] * ndim if blocks is None else blocks
    if len(sides) != ndim or not all(
        _check.is_integer(side) and side > 0 and side % block == 0 and side // block % 2
        for side, block in zip(sides, each, strict=True)
    ):
        first = ", ".join(str(times * max(each)) for times in (1, 3, 5))
        number = "an odd number" if max(each) == 1 else f"an odd multiple of the blocks (of {max(each)}: {first}, ...)"
        raise InputError(f"window: expected {number}, or {ndim} of them, one per axis, got {window!r}")
    sides = [side // block for side, block in zip(sides, each, strict=True)]
    if max(sides) > WIDEST:
        raise InputError(f"window: expected at most {WIDEST} voxels, or blocks, along an axis, got {window!r}")
    _check.choice("weighting", weighting, WEIGHTINGS)
    _check.choice("border", border, BORDERS)
    _check.choice("semantics", semantics, SEMANTICS)
    eps, smooth_nr = _check.plain(eps), _check.plain(smooth_nr)
    if not (_check.is_number(eps) and eps > 0):
        raise InputError(f"eps: expected a positive number, got {eps!r}")
    if not (_check.is_number(smooth_nr) and smooth_nr >= 0):
        raise InputError(f"smooth_nr: expected 0 or a positive number, got {smooth_nr!r}")
    if semantics == "fireants" and weighting == "gaussian":
        raise InputError(
            "weighting: expected box or triangular with the semantics of FireANTs, whose gaussian is cut to one side"
        )
    averaged = semantics == "fireants"
    weights: list[float] = []
    if weighting != "box":
        for side in sides:
            weights += _triangle(side, semantics) if weighting == "triangular" else _gaussian(side)
    limit = math.inf if semantics == "monai" and smooth_nr > 0 else 1.0
    floor, added = {"voxelmorph": (0.0, eps), "monai": (eps, 0.0), "fireants": (eps, eps)}[semantics]
    return Windows(sides, weights, border, [float(smooth_nr), floor, added, limit], averaged)


def _mask(mask: Tensor | None, batch: int, like: Tensor) -> Tensor | None:
    """Checked, as bool; like: what it masks."""
    if mask is None:
        return None
    _check.tensor("mask", mask)
    if mask.ndim != like.ndim or mask.shape[0] not in (1, batch) or mask.shape[1:] != (1, *like.shape[2:]):
        raise InputError(
            f"mask: expected shape (1 or {batch}, 1, {', '.join(map(str, like.shape[2:]))}), got {tuple(mask.shape)}"
        )
    if mask.device != like.device:
        raise InputError(f"mask: expected a tensor on {like.device}, got one on {mask.device}")
    return mask if mask.dtype == torch.bool else mask != 0


def _counted(mask: Tensor | None, like: Tensor, blocks: Sequence[int] | None = None) -> Tensor:
    """Windows that count, by item of the mask (1 or N,); like: (N, C, *spatial)."""
    sides = [1] * (like.ndim - 2) if blocks is None else list(blocks)
    if mask is None:
        places = math.prod([n // side for n, side in zip(like.shape[2:], sides, strict=True)])
        return like.new_full((1,), like.shape[1] * places, dtype=torch.float64)
    if max(sides) > 1:
        mask = reference.block_sum(mask.float(), sides) > 0
    return like.shape[1] * mask.flatten(1).sum(1, dtype=torch.float64).clamp(min=1)


def _fake_local_ncc(a: Tensor, b: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    windows, to_a, to_b = options[-3:]
    dtype = _check.arithmetic_dtype(a)
    return (
        a.new_empty(a.shape if windows else (a.shape[0],), dtype=dtype),
        a.new_empty(a.shape if to_a else (0,), dtype=dtype),
        b.new_empty(b.shape if to_b else (0,), dtype=dtype),
    )


def _local_ncc_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, mask, _, *ctx.options, ctx.windows, _, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.masked = mask is not None
    ctx.save_for_backward(a, b, *([mask] if ctx.masked else []))
    ctx.gradients = None if ctx.windows else output[1:]


def _local_ncc_gradient(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    once_differentiable("local_ncc")
    needed = ctx.needs_input_grad[:2]
    # Those of the forward pass are scaled in place, and made again should they be asked for once more.
    gradients, ctx.gradients = ctx.gradients, None
    if gradients is None:
        a, b, *rest = ctx.saved_tensors
        mask = rest[0] if ctx.masked else None
        upstream = grad if ctx.windows else None
        _, *gradients = _local_ncc(a, b, mask, upstream, *ctx.options, False, *needed)
    if not ctx.windows:
        gradients = [_scaled(g, grad) if n else g for g, n in zip(gradients, needed, strict=True)]
    return *(g if n else None for g, n in zip(gradients, needed, strict=True)), *[None] * (5 + len(ctx.options))


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """By item; in place, unless the two stand for others, in a trace or under a transform."""
    functorch = torch._C._functorch
    stand_ins = functorch.is_functorch_wrapped_tensor, functorch.is_legacy_batchedtensor
    if any(type(t) is not Tensor or any(is_one(t) for is_one in stand_ins) for t in (gradient, factor)):
        return gradient * _by_item(factor, gradient)
    return gradient.mul_(_by_item(factor, gradient))


def _by_item(factor: Tensor, like: Tensor) -> Tensor:
    """(N,) in the shape of something to multiply it with."""
    return factor.view(-1, *[1] * (like.ndim - 1))


def _fake_warp_local_ncc(fixed: Tensor, moving: Tensor, disp: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    places = [n // side for n, side in zip(disp.shape[2:], options[-1], strict=True)]
    return disp.new_empty(disp.shape[0]), disp.new_empty(*disp.shape[:2], *places)


def _warp_local_ncc_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    # Of whole blocks there is the gradient to displacements of these, none to every voxel's.
    ctx.mark_non_differentiable(*(output if max(inputs[-1]) > 1 else output[1:]))
    ctx.save_for_backward(output[1])
    ctx.inputs = len(inputs)


def _warp_local_ncc_gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    once_differentiable("warp_local_ncc")
    (gradient,) = ctx.saved_tensors
    return None, None, _by_item(grad, gradient) * gradient, *[None] * (ctx.inputs - 3)


_local_ncc = Operator(
    reference.local_ncc,
    fake=_fake_local_ncc,
    backward=_local_ncc_gradient,
    setup_context=_local_ncc_context,
)
_warp_local_ncc = Operator(
    warp_reference.warp_local_ncc,
    fake=_fake_warp_local_ncc,
    backward=_warp_local_ncc_gradient,
    setup_context=_warp_local_ncc_context,
)


def local_ncc(
    a: Tensor,
    b: Tensor,
    *,
    window: int | Sequence[int] = 9,
    weighting: str = "box",
    reduction: str = "mean",
    eps: float = 1e-5,
    mask: Tensor | None = None,
    border: str = "zeros",
    semantics: str = "voxelmorph",
    smooth_nr: float = 0.0,
) -> Tensor:
    """Squared local normalised cross-correlation in [0, 1], 1 where one image is locally linear in the other.

    Args:
        a, b: (N, C, *spatial) images of one shape, 1-D, 2-D or 3-D, floating.
        window: odd side of the window in voxels, or one for each axis.
        weighting: of a window's voxels: ``"box"``, all alike; ``"triangular"``; ``"gaussian"``, of standard deviation
            window / 3.
        reduction: ``"mean"`` or ``"sum"`` over batch, channels and windows, one around every voxel; ``"none"``.
        eps: keeps flat windows from dividing by zero. It is an absolute number: with the default semantics it is added
            to the product of the variances, each a sum over the window (not a mean), and so is on the scale of the
            fourth power of the intensities. Windows whose variances are below its square root count as flat: with 9^3
            voxels and the default, those of a standard deviation below 0.002, which is little of images from 0 to 1,
            and nothing in HU.
        mask: (1 or N, 1, *spatial), bool or numbers: voxels where it is 0 count in no window, and are the centre of
            none. The map is 0 there, and so are the gradients.
        border: what windows hold outside the image: ``"zeros"``, or nothing (``"valid"``), so that they are the sum of
            fewer voxels.
        semantics: whose constants:

            ==============  ===================================================================================
            ``voxelmorph``  (cross^2 + smooth_nr) / (var_a var_b + eps), also neurite's
            ``monai``       (cross^2 + smooth_nr) / (max(var_a, eps) max(var_b, eps)); its smooth_dr is eps
            ``fireants``    (cross^2 + smooth_nr) / (max(var_a, eps) max(var_b, eps) + eps), cross and variances
                            means over the window; its smooth_dr is eps, and its smooth_nr 1e-5 unless told
            ==============  ===================================================================================

            With the default a flat window, or one flat in one image, gives 0 and no gradient, and the value changes
            smoothly from there; the other two switch at a variance of eps, which is then on the scale of the square
            of the intensities (FireANTs' stands beside the product of two variances as well).
        smooth_nr: added to the numerator, on the scale of cross^2: the fourth power of the intensities. A flat window
            then gives more than 0.

    Returns:
        A scalar, or with ``reduction="none"`` the value of every window, (N, C, *spatial); in the images' dtype.
        Differentiable in both; only the gradients that are needed are made, those of a scalar in the same pass. Sums
        are accumulated so that neither an offset common to an image nor what lies beside a window costs accuracy:
        whatever eps is, a window is flat where its standard deviation is below 1e-7 of the largest magnitude in its
        channel. Nothing is NaN for finite images.

    Raises:
        InputError: shapes, dtypes or devices that differ, an even window, an unknown name, eps not positive.
    """
    ndim = _check.image("a", a, dims=(1, 2, 3))
    _check.image("b", b, dims=(1, 2, 3))
    _check.same("a, b", a, b)
    _check.choice("reduction", reduction, REDUCTIONS)
    options = _windows(ndim, window, weighting, border, semantics, eps, smooth_nr)
    mask = _mask(mask, a.shape[0], a)
    if reduction == "none":
        every: Tensor = _local_ncc(a, b, mask, None, *options, True, False, False)[0]
        return every.to(a.dtype)
    sums, _, _ = _local_ncc(a, b, mask, None, *options, False, needs_gradient(a), needs_gradient(b))
    total: Tensor = sums.sum()
    if reduction == "mean":
        total = total / _counted(mask, a).expand(a.shape[0]).sum()
    return total.to(a.dtype)


def warp_local_ncc(
    fixed: Tensor,
    moving: Tensor,
    disp: Tensor,
    *,
    window: int | Sequence[int] = 9,
    weighting: str = "box",
    eps: float = 1e-5,
    mask: Tensor | None = None,
    border: str = "zeros",
    semantics: str = "voxelmorph",
    smooth_nr: float = 0.0,
    padding: str = "border",
    blocks: int | Sequence[int] = 1,
) -> tuple[Tensor, Tensor]:
    """Minus the local NCC of fixed and the warped moving image, without storing the warped image or its gradient.

    Args:
        fixed: (N, C, *out) image, 2-D or 3-D, floating.
        moving: (N, C, *in) of the same dtype.
        disp: (N, ndim, *out) displacement field in voxels of moving, of the same dtype.
        window, weighting, eps, mask, border, semantics, smooth_nr: as in `local_ncc`; the mask is of fixed.
        padding: as in `warp`.
        blocks: side of blocks of voxels, or one for each axis. There is one window around every whole block (block i
            begins at voxel side * i; voxels beyond the last count nowhere), of whole blocks: ``window`` is an odd
            multiple of theirs, in voxels (10 of blocks of 2). With a mask, where any voxel of a block counts. Where
            windows are much larger than blocks, the loss is about that of a window around every voxel, for a fraction
            of the time.

    Returns:
        The loss (N,), minus the mean over channels and windows, differentiable by disp where blocks are of one voxel
        (of larger ones it has no derivative); and its gradient, itself for optimisers that do without autograd:
        (N, ndim, *out), or (N, ndim, *coarse) of blocks, to one displacement added to all voxels of a block, the sum of
        theirs. Against it, smoothed and short, is a step of disp that goes ``before`` in `compose_steps`.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, a fixed or moving that requires a gradient, blocks larger
            than the image, and what `local_ncc` raises.
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
    _check.choice("padding", padding, PADDINGS)
    sides = _check.blocks(blocks, fixed.shape[2:])
    options = _windows(ndim, window, weighting, border, semantics, eps, smooth_nr, sides)
    mask = _mask(mask, fixed.shape[0], fixed)
    dtype = _check.arithmetic_dtype(disp)
    images = fixed.to(dtype), moving.to(dtype)
    scale = (-1 / _counted(mask, fixed, sides)).to(dtype).expand(disp.shape[0])
    loss, gradient = _warp_local_ncc(*images, disp.to(dtype), mask, scale, *options, padding, sides)
    return loss.to(disp.dtype), gradient.to(disp.dtype)
