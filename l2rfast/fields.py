"""Displacement fields: composed, integrated from velocities, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import _check
from ._dispatch import Operator, once_differentiable
from .errors import InputError
from .kernels.compose_steps import reference as steps_between
from .kernels.integrate_velocity import reference as integration
from .kernels.invert import reference as inversion
from .kernels.jacobian import reference as jacobian
from .transforms import _warp_backward


def _compose_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _compose_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    outer, inner = ctx.saved_tensors
    to_outer, to_inner = ctx.needs_input_grad
    by_outer, by_inner = _warp_backward(grad, outer, inner, "linear", "border", to_outer, to_inner)
    if to_inner:
        by_inner = by_inner + grad.sum_to_size(inner.shape)
    return by_outer.to(outer.dtype) if to_outer else None, by_inner if to_inner else None


def _integrate_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    velocity, ctx.steps = inputs
    ctx.save_for_backward(velocity)


def _integrate_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    once_differentiable("integrate_velocity")
    (velocity,) = ctx.saved_tensors
    return _integrate_velocity_backward(grad, velocity, ctx.steps), None


def _jacobian_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _jacobian_gradient(ctx: Any, grad: Tensor) -> Tensor:
    once_differentiable("jacobian_determinant")
    (disp,) = ctx.saved_tensors
    result: Tensor = _jacobian_determinant_backward(grad, disp)
    return result


def _fake_compose(outer: Tensor, inner: Tensor) -> Tensor:
    return inner.new_empty((max(outer.shape[0], inner.shape[0]), *inner.shape[1:]))


def _fake_determinant(disp: Tensor) -> Tensor:
    return disp.new_empty((disp.shape[0], *disp.shape[2:]))


_compose = Operator(integration.compose, fake=_fake_compose, backward=_compose_gradient, setup_context=_compose_context)
_compose_steps = Operator(
    steps_between.compose_steps, fake=lambda disp, before, after, blocks: disp.new_empty(disp.shape)
)
_integrate_velocity_backward = Operator(
    integration.integrate_velocity_backward,
    fake=lambda grad, velocity, steps: velocity.new_empty(velocity.shape),
)
_integrate_velocity = Operator(
    integration.integrate_velocity,
    fake=lambda velocity, steps: velocity.new_empty(velocity.shape),
    backward=_integrate_gradient,
    setup_context=_integrate_context,
)
_invert = Operator(inversion.invert, fake=lambda disp, start, tries: disp.new_empty(disp.shape))
_jacobian_determinant_backward = Operator(
    jacobian.jacobian_determinant_backward, fake=lambda grad, disp: disp.new_empty(disp.shape)
)
_jacobian_determinant = Operator(
    jacobian.jacobian_determinant,
    fake=_fake_determinant,
    backward=_jacobian_gradient,
    setup_context=_jacobian_context,
)
_digital_jacobian = Operator(
    jacobian.digital_jacobian,
    fake=lambda disp, blocks: disp.new_empty(
        (disp.shape[0], *(n // s for n, s in zip(disp.shape[2:], blocks, strict=True)))
    ),
)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement field of one transform after another: ``inner(x) + outer(x + inner(x))``.

    ``warp(warp(image, outer), inner)`` is ``warp(image, compose(outer, inner))``, up to interpolation.

    Args:
        outer: (N, ndim, *in), in voxels, sampled linearly with its border repeated.
        inner: (N, ndim, *out), of the same dtype. A batch of one goes with every item of the other's.

    Returns:
        (N, ndim, *out). Differentiable in both, twice.

    Raises:
        InputError: shapes, dtypes or devices that do not fit.
    """
    ndim = _check.field("outer", outer)
    if _check.field("inner", inner) != ndim:
        raise InputError(f"outer, inner: expected as many spatial axes, got {ndim} and {inner.ndim - 2}")
    _check.same("outer, inner", outer, inner, shape=False)
    if outer.shape[0] != inner.shape[0] and 1 not in (outer.shape[0], inner.shape[0]):
        raise InputError(f"outer, inner: expected one batch size, or 1, got {outer.shape[0]} and {inner.shape[0]}")
    result: Tensor = _compose(outer, inner)
    return result


def compose_steps(disp: Tensor, before: Tensor, after: Tensor, *, blocks: int | Sequence[int] = 1) -> Tensor:
    """A displacement field between two smaller ones that are given on blocks of its voxels, in one pass.

    With a = x + before(x) and so on, the displacement of x -> after(disp(before(x))): an update of a field on both
    sides, as of symmetric registration (Avants et al., "Symmetric diffeomorphic image registration with
    cross-correlation", MedIA 2008), where steps are smooth and known at fewer places than the field.

    Args:
        disp: (N, ndim, *spatial), floating, in voxels.
        before, after: (N, ndim, *coarse) of the same dtype, in voxels of disp, each value at the centre of its block:
            of s voxels along an axis, block i begins at voxel s * i, and there are n // s of them. All three are
            sampled linearly with their border repeated.
        blocks: s, for all axes or one for each.

    Returns:
        (N, ndim, *spatial) in the dtype of disp; the same bits for any number of threads. Not differentiable.

    Raises:
        InputError: shapes, dtypes or devices that do not fit.
    """
    _check.field("disp", disp)
    sides = _check.blocks(blocks, disp.shape[2:])
    coarse = [n // s for n, s in zip(disp.shape[2:], sides, strict=True)]
    for name, step in (("before", before), ("after", after)):
        _check.field(name, step)
        _check.same(f"disp, {name}", disp, step, shape=False)
        expected = (*disp.shape[:2], *coarse)
        if tuple(step.shape) != expected:
            raise InputError(f"{name}: expected shape {expected}, got {tuple(step.shape)}")
    dtype = _check.arithmetic_dtype(disp)
    result: Tensor = _compose_steps(*(one.to(dtype) for one in (disp, before, after)), sides)
    return result.to(disp.dtype)


def integrate_velocity(velocity: Tensor, steps: int = 7, *, keep: bool = False) -> Tensor:
    """Integrate a stationary velocity field over one unit of time, by scaling and squaring.

    Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006: the field over 2^steps,
    composed with itself ``steps`` times.

    Args:
        velocity: (N, ndim, *spatial), floating, in voxels per unit of time.
        steps: number of compositions; 0 returns the velocity as displacement.
        keep: keep the field of every step for the backward pass, ``steps`` in all. Otherwise only the velocity is
            kept, the backward pass computes fields again, and holds at most five at a time however many the steps.

    Returns:
        (N, ndim, *spatial) displacement field in voxels. Fields between are float32, or float64 when velocity is.
        Differentiable; with ``keep=True`` twice.

    Raises:
        InputError: a wrong shape or dtype, or negative steps.
    """
    _check.field("velocity", velocity)
    steps, keep = _check.at_least("steps", steps, 0), _check.flag("keep", keep)
    u = velocity.to(_check.arithmetic_dtype(velocity))
    if keep:
        u = u * 0.5**steps
        for _ in range(steps):
            u = compose(u, u)
    else:
        u = _integrate_velocity(u, steps)
    return u.to(velocity.dtype)


def invert(disp: Tensor, start: Tensor | None = None, *, tries: int = 20) -> Tensor:
    """The inverse of a displacement field: w with w(x) + disp(x + w(x)) = 0, so that ``compose(disp, w)`` is nothing.

    That is so at the voxels; ``compose(w, disp)`` is what linear interpolation between them makes of the inverse, as
    much more as disp bends.

    By Newton's method at every voxel, with the derivatives of the interpolated field; see `kernels.invert.reference`.
    Where the map folds, or leaves the grid, there is no inverse, or not one alone: what comes nearest is taken. A field
    that turns or scales by much needs a ``start`` that does.

    Args:
        disp: (N, ndim, *spatial), floating and finite, in voxels, sampled linearly with its border repeated.
        start: an inverse that is nearly right, of the same shape, dtype and device; ``-disp`` when None.
        tries: places that are tried at most; the least of what is left counts.

    Returns:
        (N, ndim, *spatial) in the dtype of disp; the same bits for any number of threads. Not differentiable.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or no try.
    """
    _check.field("disp", disp)
    tries = _check.at_least("tries", tries, 1)
    if start is not None:
        _check.field("start", start)
        _check.same("disp, start", disp, start)
    dtype = _check.arithmetic_dtype(disp)
    field = disp.to(dtype)
    result: Tensor = _invert(field, -field if start is None else start.to(dtype), tries)
    return result.to(disp.dtype)


def jacobian_determinant(disp: Tensor) -> Tensor:
    """Jacobian determinant of x + disp(x): the local change of volume; not positive where the map folds.

    Args:
        disp: (N, ndim, *spatial) displacement field in voxels, 2-D or 3-D, floating.

    Returns:
        (N, *spatial) in the field's dtype: central differences, one-sided at the border, none along an axis of one
        voxel. Differentiable, once.

    Raises:
        InputError: a wrong shape or dtype.
    """
    _check.field("disp", disp)
    result: Tensor = _jacobian_determinant(disp.to(_check.arithmetic_dtype(disp)))
    return result.to(disp.dtype)


def digital_jacobian(disp: Tensor, *, blocks: int | Sequence[int] = 1) -> Tensor:
    """The least Jacobian determinant of x + disp(x) at every voxel: not positive where the map on the grid folds.

    Central differences miss folds between neighbours. Between the voxels the map is taken as linear on triangles, or on
    tetrahedra, whose signed volumes are these determinants; a map is a digital diffeomorphism where all are positive
    (Liu et al., "On finite difference Jacobian computation in deformable image registration", IJCV 2024).

    Args:
        disp: (N, ndim, *spatial) displacement field in voxels, 2-D or 3-D, floating.
        blocks: of so many voxels along every axis, or along all, for each of which the least is returned; voxels at
            the end that fill none are left out.

    Returns:
        (N, *spatial // blocks) in the field's dtype: the least determinant of the 2^ndim combinations of forward and
        backward differences, of which that of central differences is the mean. In 3-D the two tetrahedra in the middle
        of a cube of eight voxels, over their volume in the grid, count at its first voxel. At the border there are the
        differences inwards, along an axis of one voxel none. It has no derivative.

    Raises:
        InputError: a wrong shape or dtype, or blocks that are larger than the grid.
        NotDifferentiableError: a derivative is asked for.
    """
    _check.field("disp", disp)
    sides = _check.blocks(blocks, disp.shape[2:])
    result: Tensor = _digital_jacobian(disp.to(_check.arithmetic_dtype(disp)), sides)
    return result.to(disp.dtype)
