"""The operator and the public function: what a module of `l2rfast/` would hold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from l2rfast import InputError, _check
from l2rfast._dispatch import Operator, once_differentiable

from . import reference


def _fake(fixed: Tensor, moving: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    return fixed.new_empty(fixed.shape[:2]), moving.new_empty(moving.shape)


def _context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    fixed, moving, ctx.edge = inputs
    _, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.save_for_backward(fixed, moving, gradient)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    """The distance is that of the images exchanged: so is its gradient."""
    once_differentiable("ngf")
    fixed, moving, gradient = ctx.saved_tensors
    each = grad[(...,) + (None,) * (fixed.ndim - 2)]
    to_fixed = each * _ngf(moving, fixed, ctx.edge)[1] if ctx.needs_input_grad[0] else None
    to_moving = each * gradient if ctx.needs_input_grad[1] else None
    return to_fixed, to_moving, None


_ngf = Operator(reference.ngf, fake=_fake, backward=_backward, setup_context=_context)


def normalised_gradient_fields(fixed: Tensor, moving: Tensor, *, edge: float) -> Tensor:
    """How far from parallel the edges of two images are (Haber and Modersitzki, MICCAI 2006).

    Args:
        fixed, moving: (N, C, *spatial), 2-D or 3-D, floating, of one shape.
        edge: the slope, in intensities a voxel, below which there is noise and no edge; positive.

    Returns:
        A number from 0, all edges parallel, to 1, in the dtype of the images, computed in float32 or wider: the mean
        over items, channels and voxels. Differentiable once.

    Raises:
        InputError: a wrong shape or dtype, an edge that is not positive.
    """
    _check.image("fixed", fixed)
    _check.same("fixed and moving", fixed, moving)
    noise = _check.plain(edge)
    if not _check.is_number(noise) or noise <= 0:
        raise InputError(f"edge: expected a positive number, got {edge!r}")
    dtype = _check.arithmetic_dtype(fixed)
    distance, _ = _ngf(fixed.to(dtype), moving.to(dtype), float(noise))
    result: Tensor = distance.mean().to(fixed.dtype)
    return result
