"""Sampling images in Triton: the kernels that warp, grid_sample, affine_warp and compose share, and their launches.

A program does BLOCK output voxels of one batch item of what says where to sample. Positions and taps are computed once
and serve all images, channels and, where one field goes with a batch of images, batch items ("planes"). The forward
pass reads image and field once, writes the output once, and takes no memory beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_sampling as sampling
from .sampling import arithmetic_dtype
from .triton_launch import block_of, index_of, launch, real_of, strided, strides
from .triton_sums import Sums, add


@triton.jit
def sample_kernel(
    images,
    image_strides,
    channels,
    image_size,
    batch,
    where,
    where_strides,
    outs,
    slopes,
    out_size,
    count,
    blocks,
    NEAREST: tl.constexpr,
    SOURCE: tl.constexpr,
    PADDING: tl.constexpr,
    COMPOSE: tl.constexpr,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Samples of every image, of `batch` items to one of `where`; with COMPOSE, the displacement added to them.

    The images are a tuple, unrolled here: they may differ in dtype, channels and mode, and take one launch. Slopes, for
    the first image only, may be None.
    """
    ndim: tl.constexpr = len(image_size)
    n, voxel, valid, at = sampling.block_of_program(blocks, out_size, count, INDEX, BLOCK)
    position, finite = sampling.positions(where, where_strides, n, at, valid, image_size, SOURCE, REAL)
    for i in tl.static_range(len(images)):
        image_stride = image_strides[i]
        if NEAREST[i]:
            base, found = sampling.nearest_voxel(position, image_size, PADDING, INDEX)
        else:
            base, taps = sampling.linear_corners(position, image_size, PADDING, INDEX)
        first = sampling.offset(base, image_stride)
        for plane in range(batch * channels[i]):
            source = images[i] + sampling.plane_offset(n, plane, channels[i], image_stride, INDEX) + first
            out = tl.cast(n * channels[i] + plane, INDEX)
            if NEAREST[i]:
                value = tl.load(source, mask=found & finite, other=0)
                if value.dtype.is_floating():
                    value = tl.where(finite, value.to(REAL), float("nan"))
            else:
                values = sampling.gather(source, image_stride, finite, ndim, REAL)
                value = tl.where(finite, sampling.combine(sampling.weights(taps, 0), values), float("nan"))
                if COMPOSE:
                    component = where + sampling.plane_offset(n, plane % ndim, ndim, where_strides, INDEX)
                    value += tl.load(component + sampling.offset(at, where_strides), mask=valid, other=0).to(REAL)
                if slopes is not None:
                    for k in tl.static_range(ndim):
                        slope = sampling.combine(sampling.weights(taps, 1 << k), values)
                        tl.store(slopes + (out * ndim + k) * count + voxel, tl.where(finite, slope, 0), mask=valid)
            tl.store(outs[i] + out * count + voxel, value, mask=valid)


@triton.jit
def scatter(first, steps, weight, value, valid, scale, NDIM: tl.constexpr):
    """The adjoint of `sampling.gather` and `sampling.combine`: adds weight times value to every corner."""
    for i in tl.static_range(2**NDIM):
        pointer = sampling.corner(first, steps, i, NDIM)
        add(pointer, weight[i] * value, valid & (weight[i] != 0), scale)


@triton.jit
def add_slopes(sums, values, value, taps):
    """Adds to a sum per axis the value times the derivative of the interpolated values."""
    result = ()
    for k in tl.static_range(len(sums)):
        result = result + (sums[k] + value * sampling.combine(sampling.weights(taps, 1 << k), values),)  # noqa: RUF005
    return result


@triton.jit
def backward_kernel(
    grad,
    grad_strides,
    image,
    image_strides,
    channels,
    image_size,
    batch,
    where,
    where_strides,
    to_image,
    to_image_strides,
    to_where,
    to_where_strides,
    scale,
    out_size,
    count,
    blocks,
    NEAREST: tl.constexpr,
    SOURCE: tl.constexpr,
    PADDING: tl.constexpr,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of linear and nearest samples to image and source, of which to_image or to_where may be None.

    To an affine matrix every program stores its part, (programs, ndim, ndim + 1), for the host to add up in order.
    """
    ndim: tl.constexpr = len(image_size)
    factor = None if scale is None else tl.load(scale)
    n, _voxel, valid, at = sampling.block_of_program(blocks, out_size, count, INDEX, BLOCK)
    position, finite = sampling.positions(where, where_strides, n, at, valid, image_size, SOURCE, REAL)
    sums = (tl.zeros((BLOCK,), REAL),) * ndim
    if NEAREST:
        base, found = sampling.nearest_voxel(position, image_size, PADDING, INDEX)
    else:
        base, taps = sampling.linear_corners(position, image_size, PADDING, INDEX)
    for plane in range(batch * channels):
        grad_plane = grad + sampling.plane_offset(n, plane, channels, grad_strides, INDEX)
        g = tl.load(grad_plane + sampling.offset(at, grad_strides), mask=finite, other=0).to(REAL)
        if to_where is not None:
            source = image + sampling.plane_offset(n, plane, channels, image_strides, INDEX)
            source += sampling.offset(base, image_strides)
            sums = add_slopes(sums, sampling.gather(source, image_strides, finite, ndim, REAL), g, taps)
        if to_image is not None:
            target = to_image + sampling.plane_offset(n, plane, channels, to_image_strides, INDEX)
            target += sampling.offset(base, to_image_strides)
            if NEAREST:
                add(target, g, finite & found, factor)
            else:
                scatter(target, to_image_strides, sampling.weights(taps, 0), g, finite, factor, ndim)
    if to_where is not None:
        for k in tl.static_range(ndim):
            if SOURCE == "affine":
                row = to_where + (tl.cast(tl.program_id(0), INDEX) * ndim + k) * (ndim + 1)
                for j in tl.static_range(ndim):
                    tl.store(row + j, tl.sum(sums[k] * at[j].to(REAL)))
                tl.store(row + ndim, tl.sum(sums[k]))
            else:
                target = to_where + n * to_where_strides[0] + sampling.offset(at, to_where_strides)
                target += sampling.component_offset(sampling.component_of(k, ndim, SOURCE), to_where_strides, at)
                tl.store(target, sums[k] * sampling.scale_of(image_size[k], SOURCE, REAL), mask=valid)


@triton.jit
def double_backward_kernel(
    grad,
    grad_strides,
    image,
    image_strides,
    channels,
    image_size,
    batch,
    where,
    where_strides,
    tangent,
    tangent_strides,
    to_grad,
    to_image,
    to_image_strides,
    to_where,
    to_where_strides,
    scale,
    out_size,
    count,
    blocks,
    SOURCE: tl.constexpr,
    PADDING: tl.constexpr,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of sum(tangent * to_where), to_where as in `backward_kernel`; see `sampling.sample_double_backward`."""
    ndim: tl.constexpr = len(image_size)
    factor = None if scale is None else tl.load(scale)
    n, voxel, valid, at = sampling.block_of_program(blocks, out_size, count, INDEX, BLOCK)
    position, finite = sampling.positions(where, where_strides, n, at, valid, image_size, SOURCE, REAL)
    base, taps = sampling.linear_corners(position, image_size, PADDING, INDEX)
    first, target_first = sampling.offset(base, image_strides), sampling.offset(base, to_image_strides)
    tangents = ()
    for k in tl.static_range(ndim):
        component = tangent + n * tangent_strides[0] + sampling.component_offset(k, tangent_strides, at)
        component += sampling.offset(at, tangent_strides)
        tangents = tangents + (tl.load(component, mask=finite, other=0).to(REAL),)  # noqa: RUF005
    along = tangent_weights(taps, tangents, 0)
    sums = (tl.zeros((BLOCK,), REAL),) * ndim
    for plane in range(batch * channels):
        grad_plane = grad + sampling.plane_offset(n, plane, channels, grad_strides, INDEX)
        g = tl.load(grad_plane + sampling.offset(at, grad_strides), mask=finite, other=0).to(REAL)
        source = image + sampling.plane_offset(n, plane, channels, image_strides, INDEX) + first
        values = sampling.gather(source, image_strides, finite, ndim, REAL)
        out = tl.cast(n * channels + plane, INDEX) * count + voxel
        tl.store(to_grad + out, sampling.combine(along, values), mask=valid)
        target = to_image + sampling.plane_offset(n, plane, channels, to_image_strides, INDEX) + target_first
        scatter(target, to_image_strides, along, g, finite, factor, ndim)
        more = ()
        for k in tl.static_range(ndim):
            slope = sampling.combine(tangent_weights(taps, tangents, 1 << k), values)
            more = more + (sums[k] + g * slope,)  # noqa: RUF005
        sums = more
    for k in tl.static_range(ndim):
        target = to_where + n * to_where_strides[0] + sampling.component_offset(k, to_where_strides, at)
        tl.store(target + sampling.offset(at, to_where_strides), sums[k], mask=valid)


@triton.jit
def tangent_weights(taps, tangents, DERIVED: tl.constexpr):
    """The weights of all corners derived along DERIVED (one axis or none), and once more along the tangent.

    Interpolation is linear along each axis: there is no second derivative along one.
    """
    result = ()
    for i in tl.static_range(2 ** len(taps)):
        total = tl.zeros(tangents[0].shape, tangents[0].dtype)
        for m in tl.static_range(len(taps)):
            if 1 << m != DERIVED:
                total += tangents[m] * sampling.weights(taps, DERIVED | 1 << m)[i]
        result = result + (total,)  # noqa: RUF005
    return result


def sample(
    images: Sequence[Tensor],
    where: Tensor,
    size: Sequence[int],
    source: str,
    nearest: Sequence[bool],
    padding: str,
    *,
    compose: bool = False,
    slopes: bool = False,
) -> tuple[list[Tensor], Tensor | None]:
    """Sample images (N, C_i, *in) of one spatial size, nearest or linear.

    Args:
        where: the source, with axes (N, component, ...): a field, a grid, or matrices; of any strides.
        size: spatial size of the output.
        compose: add the displacement to the samples.
        slopes: also give the derivatives of the first image by position.

    Returns:
        One (N, C_i, *size) per image in its dtype, and (N, C_0, ndim, *size) or None.
    """
    n = max(images[0].shape[0], where.shape[0])
    outs = [image.new_empty((n, image.shape[1], *size)) for image in images]
    slope = images[0].new_empty((n, images[0].shape[1], len(size), *size)) if slopes else None
    count = prod(size)
    blocks = triton.cdiv(count, block_of(where.dtype))
    launch(
        sample_kernel,
        where.shape[0] * blocks,
        (
            tuple(images),
            tuple(strides(image) for image in images),
            tuple(image.shape[1] for image in images),
            tuple(images[0].shape[2:]),
            n // where.shape[0],
            *strided(where),
            tuple(outs),
            slope,
            tuple(size),
            count,
            blocks,
        ),
        NEAREST=tuple(nearest),
        COMPOSE=compose,
        **_constants(source, padding, where, *images, *outs, slope),
    )
    return outs, slope


def sample_backward(
    grad: Tensor, image: Tensor, where: Tensor, source: str, mode: str, padding: str, image_too: bool, where_too: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of one image's samples: to it, in the dtype of the arithmetic, and to `where`, in its own and with its
    axes; to matrices in float64. Empty where not asked for."""
    size = tuple(grad.shape[2:])
    count = prod(size)
    blocks = triton.cdiv(count, block_of(where.dtype))
    programs = where.shape[0] * blocks
    sums = _image_sums(grad, image, where, grad) if image_too else None
    to_image = None if sums is None else sums.tensor
    to_where = _empty_gradient(where, source, programs) if where_too and mode == "linear" else None
    if to_image is not None or to_where is not None:
        launch(
            backward_kernel,
            programs,
            (
                *strided(grad),
                *strided(image),
                image.shape[1],
                tuple(image.shape[2:]),
                grad.shape[0] // where.shape[0],
                *strided(where),
                *strided(to_image),
                *strided(to_where),
                None if sums is None else sums.scale,
                size,
                count,
                blocks,
            ),
            NEAREST=mode == "nearest",
            **_constants(source, padding, where, grad, image, to_image, to_where),
        )
    by_image = image.new_zeros(0, dtype=arithmetic_dtype(where)) if sums is None else sums.result()
    if to_where is None:
        return by_image, where.new_zeros(where.shape if where_too else 0)
    if source == "affine":
        to_where = to_where.view(where.shape[0], blocks, *where.shape[1:]).sum(1, dtype=torch.float64)
    return by_image, to_where


def sample_double_backward(
    grad: Tensor, image: Tensor, where: Tensor, tangent: Tensor, source: str, padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of sum(tangent * g), g the gradient to `where` of linear samples, to grad, image and `where`."""
    count = prod(grad.shape[2:])
    blocks = triton.cdiv(count, block_of(where.dtype))
    to_grad = grad.new_empty(grad.shape)
    sums = _image_sums(grad, image, where, grad, tangent)
    to_where = where.new_empty(where.shape)
    launch(
        double_backward_kernel,
        where.shape[0] * blocks,
        (
            *strided(grad),
            *strided(image),
            image.shape[1],
            tuple(image.shape[2:]),
            grad.shape[0] // where.shape[0],
            *strided(where),
            *strided(tangent),
            to_grad,
            *strided(sums.tensor),
            *strided(to_where),
            sums.scale,
            tuple(grad.shape[2:]),
            count,
            blocks,
        ),
        **_constants(source, padding, where, grad, image, tangent, to_grad, sums.tensor, to_where),
    )
    return to_grad, sums.result(), to_where


def _empty_gradient(where: Tensor, source: str, programs: int) -> Tensor:
    """What the gradient to `where` is written to: to matrices, the part of every program."""
    if source == "affine":
        return where.new_empty((programs, *where.shape[1:]), dtype=arithmetic_dtype(where))
    if source == "displacement":
        return where.new_empty(where.shape)
    return where.new_empty(where.movedim(1, -1).shape).movedim(-1, 1)  # a grid has its components last


def _image_sums(grad: Tensor, image: Tensor, where: Tensor, *factors: Tensor) -> Sums:
    """Sums over all samples of an image. A derivative along the tangent is at most ndim times its largest value."""
    items = grad.shape[0] // image.shape[0]
    axes = len(grad.shape[2:]) if len(factors) > 1 else 1
    return Sums(image.shape, arithmetic_dtype(where), prod(grad.shape[2:]) * items * axes, factors)


def _constants(source: str, padding: str, where: Tensor, *tensors: Tensor | None) -> dict[str, Any]:
    return {
        "SOURCE": source,
        "PADDING": padding,
        "REAL": real_of(where.dtype),
        "INDEX": index_of(where, *tensors),
        "BLOCK": block_of(where.dtype),
    }
