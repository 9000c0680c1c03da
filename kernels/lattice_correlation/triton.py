"""Correlation over a lattice of displacements in Triton.

Where the samples of an axis lie is tabulated. A program takes a block of control points of one displacement and goes
over the channels; back to fixed, of one channel, over the displacements; back to moving it adds to the corners of its
samples, deterministically where that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.constants import numbers
from ..common.sampling import arithmetic_dtype
from ..common.triton_launch import block_of, index_of, launch, real_of
from ..common.triton_sums import Sums, add


@triton.jit
def taps(bases, weights, e, i, search, grid, size, INDEX: tl.constexpr):
    """Of control points at flat indices, displaced: -> for each axis the first corner's offset and the second's weight.

    Tables hold the axes one after the other, each (displacements, control points).
    """
    gx = i % grid[2]
    gy = i // grid[2] % grid[1]
    gz = i // (grid[2] * grid[1])
    at_z = e // (search[1] * search[2]) * grid[0] + gz
    at_y = search[0] * grid[0] + e // search[2] % search[1] * grid[1] + gy
    at_x = search[0] * grid[0] + search[1] * grid[1] + e % search[2] * grid[2] + gx
    plane = size[1] * size[2]
    first = tl.load(bases + at_z).to(INDEX) * plane + tl.load(bases + at_y).to(INDEX) * size[2] + tl.load(bases + at_x)
    return first, tl.load(weights + at_z), tl.load(weights + at_y), tl.load(weights + at_x)


@triton.jit
def corner(first, wz, wy, wx, k, size):
    """One of eight: offset and weight."""
    z = k // 4
    y = k // 2 % 2
    x = k % 2
    # An axis of one voxel has no second corner; its weight is 0.
    offset = z * size[1] * size[2] * (size[0] > 1) + y * size[2] * (size[1] > 1) + x * (size[2] > 1)
    weight = (z * wz + (1 - z) * (1 - wz)) * (y * wy + (1 - y) * (1 - wy)) * (x * wx + (1 - x) * (1 - wx))
    return first + offset, weight


@triton.jit
def sampled(image, first, wz, wy, wx, size, valid, REAL: tl.constexpr):
    total = tl.zeros(first.shape, REAL)
    for k in range(8):
        at, weight = corner(first, wz, wy, wx, k, size)
        total += weight * tl.load(image + at, mask=valid, other=0).to(REAL)
    return total


@triton.jit
def block_of_points(points, grid, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """-> what else the program is of, control points of the block, those to read where there are none, which exist."""
    blocks = tl.cdiv(points, BLOCK)
    program = tl.program_id(0).to(INDEX)
    i = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return program // blocks, i, tl.minimum(i, points - 1), i < points


@triton.jit
def lattice_kernel(
    fixed, moving, bases, weights, result, search, grid, size, channels, displacements, points,
    DOT: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    item, i, j, valid = block_of_points(points, grid, BLOCK, INDEX)
    n = item // displacements
    first, wz, wy, wx = taps(bases, weights, item % displacements, j, search, grid, size, INDEX)
    volume = size[0] * size[1] * size[2]
    total = tl.zeros((BLOCK,), REAL)
    for c in range(channels):
        f = tl.load(fixed + (n * channels + c) * points + i, mask=valid, other=0).to(REAL)
        m = sampled(moving + (n * channels + c) * volume, first, wz, wy, wx, size, valid, REAL)
        total += f * m if DOT else (f - m) * (f - m)
    tl.store(result + item * points + i, total, mask=valid)


@triton.jit
def to_fixed_kernel(
    grad, fixed, moving, bases, weights, result, search, grid, size, channels, displacements, points,
    DOT: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    channel, i, j, valid = block_of_points(points, grid, BLOCK, INDEX)
    n = channel // channels
    volume = size[0] * size[1] * size[2]
    f = tl.load(fixed + channel * points + i, mask=valid, other=0).to(REAL)
    total = tl.zeros((BLOCK,), REAL)
    for e in range(displacements):
        first, wz, wy, wx = taps(bases, weights, e, j, search, grid, size, INDEX)
        m = sampled(moving + channel * volume, first, wz, wy, wx, size, valid, REAL)
        g = tl.load(grad + (n * displacements + e) * points + i, mask=valid, other=0).to(REAL)
        total += g * m if DOT else 2 * g * (f - m)
    tl.store(result + channel * points + i, total, mask=valid)


@triton.jit
def to_moving_kernel(
    grad, fixed, moving, bases, weights, sums, scale, search, grid, size, channels, displacements, points,
    DOT: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    item, i, j, valid = block_of_points(points, grid, BLOCK, INDEX)
    n = item // displacements
    first, wz, wy, wx = taps(bases, weights, item % displacements, j, search, grid, size, INDEX)
    factor = None if scale is None else tl.load(scale)
    volume = size[0] * size[1] * size[2]
    g = tl.load(grad + item * points + i, mask=valid, other=0).to(REAL)
    for c in range(channels):
        f = tl.load(fixed + (n * channels + c) * points + i, mask=valid, other=0).to(REAL)
        share = g * f
        if not DOT:
            m = sampled(moving + (n * channels + c) * volume, first, wz, wy, wx, size, valid, REAL)
            share = -2 * g * (f - m)
        for k in range(8):
            at, weight = corner(first, wz, wy, wx, k, size)
            add(sums + (n * channels + c) * volume + at, weight * share, valid, factor)


class Lattice(NamedTuple):
    """What kernels take of one: tables of taps, and sizes as of a volume."""

    bases: Tensor
    weights: Tensor
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    displacements: int
    points: int

    @staticmethod
    def of(
        fixed: Tensor, moving: Tensor, points: Sequence[float], shifts: Sequence[float], search: Sequence[int]
    ) -> Lattice:
        grid, size, absent = fixed.shape[2:], moving.shape[2:], 5 - fixed.ndim
        real = arithmetic_dtype(fixed)
        bases, weights = ([fixed.new_zeros(absent, dtype=dtype)] for dtype in (torch.int32, real))
        places, moves = (numbers(values, fixed, torch.float64) for values in (points, shifts))
        for at, by, s in zip(torch.split(places, list(grid)), torch.split(moves, list(search)), size, strict=True):
            position = (at + by[:, None]).to(real).double().clamp(0, s - 1).flatten()
            base = position.floor().clamp(max=max(s - 2, 0))
            bases.append(base.int())
            weights.append((position - base).to(real))
        three = [tuple([1] * absent + list(values)) for values in (search, grid, size)]
        return Lattice(
            torch.cat(bases),
            torch.cat(weights),
            (three[0], three[1], three[2]),
            prod(search),
            prod(grid),
        )

    def run(self, kernel: Any, items: int, inputs: tuple[Tensor, ...], outputs: tuple[Any, ...], metric: str) -> None:
        fixed = inputs[-2]
        block = block_of(arithmetic_dtype(fixed))
        arguments = (
            *inputs, self.bases, self.weights, *outputs, *self.sizes, fixed.shape[1], self.displacements, self.points,
        )  # fmt: skip
        launch(
            kernel,
            items * triton.cdiv(self.points, block),
            arguments,
            DOT=metric == "dot",
            REAL=real_of(fixed.dtype),
            INDEX=index_of(*inputs, *(o for o in outputs if isinstance(o, Tensor))),
            BLOCK=block,
        )


def lattice_correlation(
    fixed: Tensor, moving: Tensor, points: Sequence[float], shifts: Sequence[float], search: Sequence[int], metric: str
) -> Tensor:
    fixed, moving = fixed.contiguous(), moving.contiguous()
    on = Lattice.of(fixed, moving, points, shifts, search)
    result = fixed.new_empty((fixed.shape[0], *search, *fixed.shape[2:]))
    on.run(lattice_kernel, fixed.shape[0] * on.displacements, (fixed, moving), (result,), metric)
    return result


def lattice_correlation_backward(
    grad: Tensor, fixed: Tensor, moving: Tensor, points: Sequence[float], shifts: Sequence[float],
    search: Sequence[int], metric: str, to_fixed: bool, to_moving: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    inputs = grad.contiguous(), fixed.contiguous(), moving.contiguous()
    on, dtype = Lattice.of(fixed, moving, points, shifts, search), arithmetic_dtype(fixed)
    by_fixed, by_moving = (fixed.new_empty(0, dtype=dtype) for _ in range(2))
    if to_fixed:
        by_fixed = fixed.new_empty(fixed.shape, dtype=dtype)
        on.run(to_fixed_kernel, fixed.shape[0] * fixed.shape[1], inputs, (by_fixed,), metric)
    if to_moving:
        # A contribution is at most 2 |g| (|f| + |m|), or |g| |f|.
        largest = 2 * (fixed.abs().amax() + moving.abs().amax()).reshape(1)
        sums = Sums(moving.shape, dtype, 8 * on.displacements * on.points, [grad, largest])
        on.run(to_moving_kernel, fixed.shape[0] * on.displacements, inputs, (sums.tensor, sums.scale), metric)
        by_moving = sums.result()
    return by_fixed, by_moving
