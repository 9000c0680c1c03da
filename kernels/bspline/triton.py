"""Cubic B-splines in Triton: a program solves BLOCK lines, or samples BLOCK voxels of the output.

The 4^ndim coefficients around a sample are axes of their own, (BLOCK, 4, 4, 4) in 3-D, spread over the threads: none
holds all of a sample's, which is more than there are registers for.
"""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from ..common import triton_sampling as sampling
from ..common.constants import numbers
from ..common.triton_launch import block_of, index_of, launch, real_of, strided
from ..common.triton_sums import Sums, add

POLE = -0.26794919243112270647  # sqrt(3) - 2
STARTS = 32  # POLE^32 is below what float64 sees
SHARE = 64  # a program samples one in so many of the usual voxels: each has 64 coefficients


@triton.jit
def coefficients_kernel(
    values,
    numbers,
    result,
    size,
    inner,
    lines,
    starts,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(outer, size, inner) -> the coefficients along the middle axis, which may be in place; see `_numbers`."""
    line = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = line < lines
    first = line // inner * size * inner + line % inner
    pole, scale, turn, ends = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3)
    total = tl.zeros((BLOCK,), REAL)
    for k in range(starts):
        value = tl.load(values + first + tl.cast(k, INDEX) * inner, mask=valid, other=0)
        total += tl.load(numbers + 4 + k) * value
    tl.store(result + first, total, mask=valid)
    before = total
    for k in range(1, size):
        at = first + tl.cast(k, INDEX) * inner
        value = tl.load(values + at, mask=valid, other=0)
        before = total
        total = tl.where(k == size - 1, ends * value, value) + pole * total
        tl.store(result + at, total, mask=valid)
    total = turn * (total + pole * before)
    tl.store(result + first + tl.cast(size - 1, INDEX) * inner, total / ends, mask=valid)
    tl.debug_barrier()  # what is read now may have been written by other threads
    for i in range(1, size):
        k = size - 1 - i
        at = first + tl.cast(k, INDEX) * inner
        total = pole * total + scale * tl.load(result + at, mask=valid, other=0)
        tl.store(result + at, tl.where(k == 0, total / ends, total), mask=valid)


def _recursion(size: int, adjoint: bool) -> list[float]:
    """What the recursion multiplies with, as `Recursion` in cubic.h: the pole, the scale of the way back, its start,
    the outer values before, and the first values for the start."""
    scale, ends = -6 * POLE, 2.0 if adjoint else 1.0
    whole = size <= STARTS
    period = 1 - POLE ** (2 * size - 2) if whole else 1.0
    start = [POLE**k for k in range(min(size, STARTS))]
    if whole:
        inner = range(1, size - 1)
        start = [s + (POLE ** (2 * size - 2 - k) if k in inner else 0) for k, s in enumerate(start)]
        start[-1] *= ends
    start[0] *= ends
    return [POLE, scale, scale / (1 - POLE**2), ends, *(s / period for s in start)]


def spline_coefficients(image: Tensor, adjoint: bool) -> Tensor:
    """image (N, C, *spatial), float32 or float64 -> its coefficients, the same shape; or what the adjoint gives."""
    image = image.contiguous()
    source, result = image, image.new_empty(image.shape)
    for axis in range(2, image.ndim):
        size, inner = image.shape[axis], prod(image.shape[axis + 1 :])
        if size == 1:
            continue
        lines, block = image.numel() // size, block_of(image.dtype)
        launch(
            coefficients_kernel,
            triton.cdiv(lines, block),
            (source, numbers(_recursion(size, adjoint), image), result, size, inner, lines, min(size, STARTS)),
            REAL=real_of(image.dtype),
            INDEX=index_of(image),
            BLOCK=block,
        )
        source = result
    return result.copy_(image) if source is image else result


@triton.jit
def along(x, AXIS: tl.constexpr, NDIM: tl.constexpr):
    """(BLOCK, 4) -> the same on one axis of the coefficients around, of length 1 on the others."""
    for k in tl.static_range(NDIM):
        if k != AXIS:
            x = tl.expand_dims(x, k + 1)
    return x


@triton.jit
def everywhere(x, NDIM: tl.constexpr):
    """(BLOCK,) -> the same for all coefficients around."""
    for k in tl.static_range(NDIM):
        x = tl.expand_dims(x, k + 1)
    return x


@triton.jit
def cubic_taps(p, size, PADDING: tl.constexpr, INDEX: tl.constexpr):
    """Cubic interpolation along one axis -> (BLOCK, 4) each: indices, in range, weights, derivatives of these."""
    last = tl.cast(size - 1, p.dtype)
    if PADDING == "zeros":
        q = tl.minimum(tl.maximum(p, 0), last)
        slope = ((p >= 0) & (p < last)).to(p.dtype)
    else:
        q, slope = sampling.inside(p, last, PADDING)
    low = tl.maximum(tl.minimum(q.to(INDEX), size - 2), 0)
    j = (tl.arange(0, 4) - 1)[None, :]
    at = tl.abs(low[:, None] + j.to(INDEX))
    at = tl.where(at < size, at, tl.maximum(2 * (size - 1) - at, 0))  # mirrored
    x = (q - low.to(p.dtype))[:, None] - j.to(p.dtype)
    a = tl.abs(x)
    rest = 2 - a
    weight = tl.where(a < 1, 4 - 3 * a * a * rest, rest * rest * rest) / 6
    derivative = tl.where(a < 1, x * (1.5 * a - 2), tl.where(x < 0, 0.5, -0.5) * rest * rest) * slope[:, None]
    if PADDING == "zeros":
        ramp = ((p >= -1) & (p < 0)).to(p.dtype) - ((p >= last) & (p < last + 1)).to(p.dtype)
        derivative += ramp[:, None] * weight
        weight *= tl.maximum(1 - tl.abs(p - q), 0)[:, None]
    return at, weight, derivative


@triton.jit
def spline_taps(position, image_size, PADDING: tl.constexpr, INDEX: tl.constexpr):
    """-> what `cubic_taps` gives along every axis: tuples of indices, weights and derivatives."""
    index = ()
    weight = ()
    derivative = ()
    for k in tl.static_range(len(position)):
        at, w, d = cubic_taps(position[k], image_size[k], PADDING, INDEX)
        index = index + (at,)  # noqa: RUF005
        weight = weight + (w,)  # noqa: RUF005
        derivative = derivative + (d,)  # noqa: RUF005
    return index, weight, derivative


@triton.jit
def offsets(index, strides):
    """In a plane, of all coefficients around."""
    ndim: tl.constexpr = len(index)
    total = along(index[0], 0, ndim) * strides[2]
    for k in tl.static_range(1, ndim):
        total += along(index[k], k, ndim) * strides[2 + k]
    return total


@triton.jit
def weighted(values, weight, derivative, DERIVED: tl.constexpr):
    """The sum of the coefficients times their weights, derived along one axis; -1: along none."""
    ndim: tl.constexpr = len(weight)
    for k in tl.static_range(ndim - 1, -1, -1):
        if k == DERIVED:
            values = tl.sum(values * along(derivative[k], k, k + 1), k + 1)
        else:
            values = tl.sum(values * along(weight[k], k, k + 1), k + 1)
    return values


@triton.jit
def spline_warp_kernel(
    image,
    image_strides,
    channels,
    image_size,
    batch,
    disp,
    disp_strides,
    out,
    out_size,
    count,
    blocks,
    PADDING: tl.constexpr,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Samples of a spline, of `batch` items to one field."""
    ndim: tl.constexpr = len(image_size)
    n, voxel, valid, at = sampling.block_of_program(blocks, out_size, count, INDEX, BLOCK)
    position, finite = sampling.positions(disp, disp_strides, n, at, valid, image_size, "displacement", REAL)
    index, weight, derivative = spline_taps(position, image_size, PADDING, INDEX)
    mask = everywhere(finite, ndim)
    for plane in range(batch * channels):
        source = image + sampling.plane_offset(n, plane, channels, image_strides, INDEX)
        value = weighted(tl.load(source + offsets(index, image_strides), mask=mask, other=0), weight, derivative, -1)
        target = out + tl.cast(n * channels + plane, INDEX) * count + voxel
        tl.store(target, tl.where(finite, value, float("nan")), mask=valid)


@triton.jit
def spline_backward_kernel(
    grad,
    grad_strides,
    image,
    image_strides,
    channels,
    image_size,
    batch,
    disp,
    disp_strides,
    to_image,
    to_image_strides,
    to_disp,
    to_disp_strides,
    scale,
    out_size,
    count,
    blocks,
    PADDING: tl.constexpr,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients to the coefficients and to the field, of which to_image or to_disp may be None."""
    ndim: tl.constexpr = len(image_size)
    factor = None if scale is None else tl.load(scale)
    n, _voxel, valid, at = sampling.block_of_program(blocks, out_size, count, INDEX, BLOCK)
    position, finite = sampling.positions(disp, disp_strides, n, at, valid, image_size, "displacement", REAL)
    index, weight, derivative = spline_taps(position, image_size, PADDING, INDEX)
    mask = everywhere(finite, ndim)
    sums = (tl.zeros((BLOCK,), REAL),) * ndim
    for plane in range(batch * channels):
        grad_plane = grad + sampling.plane_offset(n, plane, channels, grad_strides, INDEX)
        g = tl.load(grad_plane + sampling.offset(at, grad_strides), mask=finite, other=0)
        if to_disp is not None:
            source = image + sampling.plane_offset(n, plane, channels, image_strides, INDEX)
            values = tl.load(source + offsets(index, image_strides), mask=mask, other=0)
            more = ()
            for k in tl.static_range(ndim):
                more = more + (sums[k] + g * weighted(values, weight, derivative, k),)  # noqa: RUF005
            sums = more
        if to_image is not None:
            target = to_image + sampling.plane_offset(n, plane, channels, to_image_strides, INDEX)
            product = along(weight[0], 0, ndim)
            for k in tl.static_range(1, ndim):
                product = product * along(weight[k], k, ndim)
            share = product * everywhere(g, ndim)
            add(target + offsets(index, to_image_strides), share, mask & (product != 0), factor)
    if to_disp is not None:
        for k in tl.static_range(ndim):
            target = to_disp + n * to_disp_strides[0] + sampling.component_offset(k, to_disp_strides, at)
            tl.store(target + sampling.offset(at, to_disp_strides), sums[k], mask=valid)


def spline_warp(coefficients: Tensor, disp: Tensor, padding: str) -> Tensor:
    """coefficients (N, C, *in), in the dtype of the arithmetic, disp (N, ndim, *out) -> (N, C, *out)."""
    n, size = max(coefficients.shape[0], disp.shape[0]), tuple(disp.shape[2:])
    out = coefficients.new_empty((n, coefficients.shape[1], *size))
    count, block = prod(size), max(block_of(disp.dtype) // SHARE, 1)
    blocks = triton.cdiv(count, block)
    launch(
        spline_warp_kernel,
        disp.shape[0] * blocks,
        (
            *strided(coefficients),
            coefficients.shape[1],
            tuple(coefficients.shape[2:]),
            n // disp.shape[0],
            *strided(disp),
            out,
            size,
            count,
            blocks,
        ),
        PADDING=padding,
        REAL=real_of(disp.dtype),
        INDEX=index_of(coefficients, disp, out),
        BLOCK=block,
    )
    return out


def spline_warp_backward(
    grad: Tensor, coefficients: Tensor, disp: Tensor, padding: str, to_image: bool, to_disp: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to the coefficients and to disp, each in its own dtype; empty where not asked for."""
    size = tuple(grad.shape[2:])
    count, block = prod(size), max(block_of(disp.dtype) // SHARE, 1)
    blocks, items = triton.cdiv(count, block), grad.shape[0] // coefficients.shape[0]
    sums = Sums(coefficients.shape, coefficients.dtype, count * items, [grad]) if to_image else None
    by_image = None if sums is None else sums.tensor
    by_disp = disp.new_empty(disp.shape) if to_disp else None
    if to_image or to_disp:
        launch(
            spline_backward_kernel,
            disp.shape[0] * blocks,
            (
                *strided(grad),
                *strided(coefficients),
                coefficients.shape[1],
                tuple(coefficients.shape[2:]),
                grad.shape[0] // disp.shape[0],
                *strided(disp),
                *strided(by_image),
                *strided(by_disp),
                None if sums is None else sums.scale,
                size,
                count,
                blocks,
            ),
            PADDING=padding,
            REAL=real_of(disp.dtype),
            INDEX=index_of(disp, grad, coefficients, by_image, by_disp),
            BLOCK=block,
        )
    return (
        coefficients.new_zeros(0) if sums is None else sums.result(),
        disp.new_zeros(0) if by_disp is None else by_disp,
    )
