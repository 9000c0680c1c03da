"""Jacobian determinant of x + disp(x), in Triton.

The forward pass reads the field, through the caches 2 * ndim + 1 times, and writes the determinant. The backward pass
gathers: a voxel takes from its neighbours what their determinants owe it, so that nothing is added in memory and the
bits are the same every time; it computes the cofactors of every neighbour again, which takes less than storing them.
"""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from ..common import triton_sampling as sampling
from ..common.triton_launch import block_of, index_of, launch, real_of, strides

# The backward pass holds two columns of J and what comes of them: one voxel a thread.
BACKWARD_BLOCK = 128


@triton.jit
def derivative(field, at, valid, size, steps, AXIS: tl.constexpr, REAL: tl.constexpr):
    """Central difference of a component along an axis, one-sided at the border; 0 along an axis of one voxel.

    `field` points to the component's first voxel.
    """
    here = field + sampling.offset(at, steps)
    before = (at[AXIS] > 0).to(at[AXIS].dtype)
    after = (at[AXIS] < size[AXIS] - 1).to(at[AXIS].dtype)
    high = tl.load(here + after * steps[2 + AXIS], mask=valid, other=0).to(REAL)
    low = tl.load(here - before * steps[2 + AXIS], mask=valid, other=0).to(REAL)
    return (high - low) / tl.maximum(before + after, 1).to(REAL)


@triton.jit
def jacobian_column(disp, at, valid, size, steps, AXIS: tl.constexpr, REAL: tl.constexpr):
    """J_kl for l = AXIS and every k."""
    column = ()
    for k in tl.static_range(len(size)):
        slope = derivative(disp + sampling.component_offset(k, steps, at), at, valid, size, steps, AXIS, REAL)
        column = column + (slope + 1 if k == AXIS else slope,)  # noqa: RUF005
    return column


@triton.jit
def cofactors(disp, at, valid, size, steps, AXIS: tl.constexpr, REAL: tl.constexpr):
    """The derivatives of the determinant by J_kl, for l = AXIS and every k."""
    if len(size) == 2:
        other = jacobian_column(disp, at, valid, size, steps, 1 - AXIS, REAL)
        sign: tl.constexpr = 1 - 2 * AXIS
        result = (sign * other[1], -sign * other[0])
    else:
        a = jacobian_column(disp, at, valid, size, steps, (AXIS + 1) % 3, REAL)
        b = jacobian_column(disp, at, valid, size, steps, (AXIS + 2) % 3, REAL)
        result = ()
        for k in tl.static_range(3):
            minor = a[(k + 1) % 3] * b[(k + 2) % 3] - a[(k + 2) % 3] * b[(k + 1) % 3]
            result = result + (minor,)  # noqa: RUF005
    return result


@triton.jit
def determinant_kernel(
    disp, steps, out, size, count, blocks, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr
):
    """The determinant, expanded along the first axis."""
    n, voxel, valid, at = sampling.block_of_program(blocks, size, count, INDEX, BLOCK)
    field = disp + n * steps[0]
    first = jacobian_column(field, at, valid, size, steps, 0, REAL)
    determinant = sampling.combine(first, cofactors(field, at, valid, size, steps, 0, REAL))
    tl.store(out + n * count + voxel, determinant, mask=valid)


@triton.jit
def determinant_backward_kernel(
    grad,
    grad_steps,
    disp,
    steps,
    out,
    size,
    count,
    blocks,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What a voxel of every component gets from the determinants at it and at its neighbours along every axis."""
    ndim: tl.constexpr = len(size)
    n, voxel, valid, at = sampling.block_of_program(blocks, size, count, INDEX, BLOCK)
    field = disp + n * steps[0]
    sums = (tl.zeros((BLOCK,), REAL),) * ndim
    for axis in tl.static_range(ndim):
        last = size[axis] - 1
        for side in range(-1, 2):  # unrolled, it would take too many registers
            neighbour = at[axis] + side
            # A voxel is the upper one of the difference before it and the lower one of that after it; its own
            # difference counts it where it is one-sided, at the first voxel and the last.
            own = (at[axis] == last).to(REAL) - (at[axis] == 0).to(REAL)
            share = tl.where(side == 0, own, tl.cast(-side, REAL))
            counts = valid & (neighbour >= 0) & (neighbour <= last) & (share != 0)
            width = tl.where((neighbour > 0) & (neighbour < last), 2, 1).to(REAL)
            there = ()
            for k in tl.static_range(ndim):
                there = there + (neighbour if k == axis else at[k],)  # noqa: RUF005
            g = grad + n * grad_steps[0] + sampling.offset(there, grad_steps)
            factor = share / width * tl.load(g, mask=counts, other=0).to(REAL)
            minors = cofactors(field, there, counts, size, steps, axis, REAL)
            sums = add_scaled(sums, factor, minors, counts)
    for k in tl.static_range(ndim):
        tl.store(out + (n * ndim + k) * count + voxel, sums[k], mask=valid)


@triton.jit
def add_scaled(sums, factor, values, counts):
    """sums + factor * values where it counts."""
    result = ()
    for k in tl.static_range(len(sums)):
        result = result + (sums[k] + tl.where(counts, factor * values[k], 0),)  # noqa: RUF005
    return result


def jacobian_determinant(disp: Tensor) -> Tensor:
    """disp (N, ndim, *spatial) -> (N, *spatial)."""
    out = disp.new_empty((disp.shape[0], *disp.shape[2:]))
    _launch(determinant_kernel, disp, (disp, strides(disp), out), block_of(disp.dtype))
    return out


def jacobian_determinant_backward(grad: Tensor, disp: Tensor) -> Tensor:
    """grad (N, *spatial) -> gradient to disp (N, ndim, *spatial)."""
    out = disp.new_empty(disp.shape)
    of_grad = strides(grad[:, None])
    _launch(determinant_backward_kernel, disp, (grad, of_grad, disp, strides(disp), out), BACKWARD_BLOCK)
    return out


def _launch(kernel: triton.JITFunction, disp: Tensor, arguments: tuple[object, ...], block: int) -> None:
    size = tuple(disp.shape[2:])
    count = prod(size)
    blocks = triton.cdiv(count, block)
    launch(
        kernel,
        disp.shape[0] * blocks,
        (*arguments, size, count, blocks),
        REAL=real_of(disp.dtype),
        INDEX=index_of(*(argument for argument in arguments if isinstance(argument, Tensor))),
        BLOCK=block,
    )
