"""Dense displacement correlation in Triton.

A program takes a block of voxels of one displacement and goes over the channels. Going back, one takes a block of
voxels of one channel and goes over the displacements: no two programs add to the same number. The averages that may
follow the costs are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.sampling import arithmetic_dtype
from ..common.triton_launch import block_of, index_of, launch, real_of
from .reference import gathered, smoothed


@triton.jit
def place(i, size):
    """Flat indices -> position."""
    return i // (size[1] * size[2]), i // size[2] % size[1], i % size[2]


@triton.jit
def shift(e, radius, dilation):
    """A displacement's flat index -> its components."""
    width_y = 2 * radius[1] + 1
    width_x = 2 * radius[2] + 1
    z = e // (width_y * width_x) - radius[0]
    y = e // width_x % width_y - radius[1]
    x = e % width_x - radius[2]
    return z * dilation, y * dilation, x * dilation


@triton.jit
def load_at(image, z, y, x, size, valid, BORDER: tl.constexpr, REAL: tl.constexpr):
    """Voxels of a channel, outside 0 or those of the border."""
    if BORDER:
        z = tl.minimum(tl.maximum(z, 0), size[0] - 1)
        y = tl.minimum(tl.maximum(y, 0), size[1] - 1)
        x = tl.minimum(tl.maximum(x, 0), size[2] - 1)
    else:
        valid = valid & (z >= 0) & (z < size[0]) & (y >= 0) & (y < size[1]) & (x >= 0) & (x < size[2])
    return tl.load(image + (z * size[1] + y) * size[2] + x, mask=valid, other=0).to(REAL)


@triton.jit
def by_fixed(f, m, METRIC: tl.constexpr):
    """The derivative of the metric by fixed."""
    if METRIC == "dot":
        return m
    if METRIC == "sad":
        return tl.where(f > m, 1.0, tl.where(f < m, -1.0, 0.0)).to(f.dtype)
    return 2 * (f - m)


@triton.jit
def correlation_kernel(
    fixed, moving, result, size, radius, dilation, channels, displacements, blocks,
    METRIC: tl.constexpr, BORDER: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(INDEX)
    i = program % blocks * BLOCK + tl.arange(0, BLOCK)
    e = program // blocks % displacements
    n = program // blocks // displacements
    volume = size[0] * size[1] * size[2]
    valid = i < volume
    z, y, x = place(i, size)
    dz, dy, dx = shift(e, radius, dilation)
    total = tl.zeros((BLOCK,), REAL)
    for c in range(channels):
        first = (n * channels + c) * volume
        f = tl.load(fixed + first + i, mask=valid, other=0).to(REAL)
        m = load_at(moving + first, z + dz, y + dy, x + dx, size, valid, BORDER, REAL)
        if METRIC == "dot":
            total += f * m
        elif METRIC == "sad":
            total += tl.abs(f - m)
        else:
            total += (f - m) * (f - m)
    tl.store(result + (n * displacements + e) * volume + i, total, mask=valid)


@triton.jit
def to_fixed_kernel(
    grad, fixed, moving, result, size, radius, dilation, channels, displacements, blocks,
    METRIC: tl.constexpr, BORDER: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(INDEX)
    i = program % blocks * BLOCK + tl.arange(0, BLOCK)
    channel = program // blocks
    n = channel // channels
    volume = size[0] * size[1] * size[2]
    valid = i < volume
    z, y, x = place(i, size)
    f = tl.load(fixed + channel * volume + i, mask=valid, other=0).to(REAL)
    total = tl.zeros((BLOCK,), REAL)
    for e in range(displacements):
        dz, dy, dx = shift(e, radius, dilation)
        m = load_at(moving + channel * volume, z + dz, y + dy, x + dx, size, valid, BORDER, REAL)
        g = tl.load(grad + (n * displacements + e) * volume + i, mask=valid, other=0).to(REAL)
        total += g * by_fixed(f, m, METRIC)
    tl.store(result + channel * volume + i, total, mask=valid)


@triton.jit
def to_padded_kernel(
    grad, fixed, moving, result, size, radius, dilation, channels, displacements, blocks,
    METRIC: tl.constexpr, BORDER: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of moving with its margins: what is left is to fold them in."""
    program = tl.program_id(0).to(INDEX)
    i = program % blocks * BLOCK + tl.arange(0, BLOCK)
    channel = program // blocks
    n = channel // channels
    volume = size[0] * size[1] * size[2]
    wide_z = size[0] + 2 * radius[0] * dilation
    wide_y = size[1] + 2 * radius[1] * dilation
    wide_x = size[2] + 2 * radius[2] * dilation
    valid = i < wide_z * wide_y * wide_x
    z = i // (wide_y * wide_x) - radius[0] * dilation
    y = i // wide_x % wide_y - radius[1] * dilation
    x = i % wide_x - radius[2] * dilation
    m = load_at(moving + channel * volume, z, y, x, size, valid, BORDER, REAL)
    total = tl.zeros((BLOCK,), REAL)
    for e in range(displacements):
        dz, dy, dx = shift(e, radius, dilation)
        f = load_at(fixed + channel * volume, z - dz, y - dy, x - dx, size, valid, False, REAL)
        g = load_at(grad + (n * displacements + e) * volume, z - dz, y - dy, x - dx, size, valid, False, REAL)
        total += g * by_fixed(m, f, METRIC)  # all metrics are symmetric
    tl.store(result + channel * wide_z * wide_y * wide_x + i, total, mask=valid)


def _three(values: Sequence[int], filler: int) -> tuple[int, ...]:
    """Of a plane, those of a volume."""
    return (*[filler] * (3 - len(values)), *values)


def _run(
    kernel: Any, items: int, voxels: int, tensors: tuple[Tensor, ...], fixed: Tensor, radius: Sequence[int],
    dilation: int, padding: str, metric: str,
) -> None:  # fmt: skip
    block = block_of(arithmetic_dtype(fixed))
    blocks = triton.cdiv(voxels, block)
    arguments = (
        *tensors, _three(fixed.shape[2:], 1), _three(radius, 0), dilation, fixed.shape[1],
        prod(2 * r + 1 for r in radius), blocks,
    )  # fmt: skip
    launch(
        kernel,
        items * blocks,
        arguments,
        METRIC=metric,
        BORDER=padding == "border",
        REAL=real_of(fixed.dtype),
        INDEX=index_of(*tensors),
        BLOCK=block,
    )


def correlation(
    fixed: Tensor, moving: Tensor, radius: Sequence[int], dilation: int, padding: str, smoothing: int, metric: str
) -> Tensor:
    fixed, moving = fixed.contiguous(), moving.contiguous()
    size, displacements = fixed.shape[2:], prod(2 * r + 1 for r in radius)
    dtype = arithmetic_dtype(fixed) if smoothing else fixed.dtype
    result = fixed.new_empty((fixed.shape[0], displacements, *size), dtype=dtype)
    items = fixed.shape[0] * displacements
    _run(correlation_kernel, items, prod(size), (fixed, moving, result), fixed, radius, dilation, padding, metric)
    return smoothed(result, smoothing).to(fixed.dtype).view(fixed.shape[0], *(2 * r + 1 for r in radius), *size)


def correlation_backward(
    grad: Tensor, fixed: Tensor, moving: Tensor, radius: Sequence[int], dilation: int, padding: str,
    smoothing: int, metric: str, to_fixed: bool, to_moving: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if smoothing:
        grad = smoothed(grad.flatten(1, len(radius)).to(arithmetic_dtype(fixed)), smoothing)
    grad, fixed, moving = grad.contiguous(), fixed.contiguous(), moving.contiguous()
    size, dtype, items = fixed.shape[2:], arithmetic_dtype(fixed), fixed.shape[0] * fixed.shape[1]
    options = (fixed, radius, dilation, padding, metric)
    by_fixed, by_moving = (fixed.new_empty(0, dtype=dtype) for _ in range(2))
    if to_fixed:
        by_fixed = torch.empty_like(fixed, dtype=dtype)
        _run(to_fixed_kernel, items, prod(size), (grad, fixed, moving, by_fixed), *options)
    if to_moving:
        wide = [s + 2 * r * dilation for s, r in zip(size, radius, strict=True)]
        padded = fixed.new_empty((*fixed.shape[:2], *wide), dtype=dtype)
        _run(to_padded_kernel, items, prod(wide), (grad, fixed, moving, padded), *options)
        by_moving = gathered(padded, moving.shape, padding)
    return by_fixed, by_moving
