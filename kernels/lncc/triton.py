"""Local NCC in Triton.

The volumes are gone through in slabs of planes, of as many channels at once as fill a GPU. For the windows of a slab,
and those that its gradients need on both sides: the sums of a, b, aa, bb, ab (and of the mask) along z from the images,
then along y, then along x, where the window's value and what gradients sum over are made; the same three sums of these
make the gradients. Every window is summed anew, axis by axis: nothing that has left it leaves a trace. Sums are in
float64, as variances are small differences of large sums, or where that is slow in pairs of float32, with weights in
float32; what is made of a window's sums is in float64. Kept are those of a slab only, some 100 bytes for each of at
most `VOXELS` of its voxels (or a plane of windows).
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.constants import numbers
from ..common.precision import in_pairs
from ..common.triton_launch import index_of, launch, strides
from ..common.triton_pairs import add, dtype_of, factor_of, load, number, store, times, wide
from .reference import FLAT, window_sum

BLOCK = 128  # of voxels in float64, or pairs: one a thread
PLANES = 8  # of a slab, at least
VOXELS = 1 << 20
UNRESOLVED = tl.constexpr(1e-13)  # of a mean square: smaller variances may be what is rounded off pairs


@triton.jit
def block(count, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """-> flat indices of the program's voxels, which of them exist."""
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    return i, i < count


@triton.jit
def place(i, first, planes, size, channels):
    """Flat indices in a slab -> item and channel, position. `first`: the slab's first channel of all, and plane."""
    x = i % size[2]
    y = i // size[2] % size[1]
    z = i // (size[2] * size[1]) % planes + first[1]
    channel = i // (size[2] * size[1] * planes) + first[0]
    return channel // channels, channel % channels, z, y, x


@triton.jit
def load_from(image, steps, n, c, z, y, x, valid):
    """Voxels of an image, 0 where not valid."""
    at = n * steps[0] + c * steps[1] + z * steps[2] + y * steps[3] + x * steps[4]
    return tl.load(image + at, mask=valid, other=0)


@triton.jit
def load_masked(image, steps, mask, mask_steps, n, c, z, y, x, valid):
    """The same inside the mask only."""
    if mask is not None:
        valid = valid & (load_from(mask, mask_steps, n, 0, z, y, x, valid) != 0)
    return load_from(image, steps, n, c, z, y, x, valid)


@triton.jit
def moments_kernel(
    a, a_steps, b, b_steps, mask, mask_steps, out, weights, side, first, planes, size, channels, count,
    PAIRS: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums along z of what a window is measured by: quantity q of voxel i at out[q * count + i]."""
    i, valid = block(count, INDEX, BLOCK)
    n, c, z, y, x = place(i, first, planes, size, channels)
    nothing = number(tl.zeros((BLOCK,), tl.float32), PAIRS)
    sum_a, sum_b, sum_aa, sum_bb, sum_ab, mass = nothing, nothing, nothing, nothing, nothing, nothing
    for j in range(side):
        at = z + j - side // 2
        inside = valid & (at >= 0) & (at < size[0])
        weight = tl.load(weights + j)
        value_a = load_masked(a, a_steps, mask, mask_steps, n, c, at, y, x, inside).to(weight.dtype)
        value_b = load_masked(b, b_steps, mask, mask_steps, n, c, at, y, x, inside).to(weight.dtype)
        of_a, of_b = times(number(value_a, PAIRS), weight), times(number(value_b, PAIRS), weight)
        sum_a, sum_b = add(sum_a, of_a), add(sum_b, of_b)
        sum_aa, sum_bb = add(sum_aa, times(of_a, value_a)), add(sum_bb, times(of_b, value_b))
        sum_ab = add(sum_ab, times(of_a, value_b))
        if mask is not None:
            inside = load_from(mask, mask_steps, n, 0, at, y, x, inside)
            mass = add(mass, times(number(inside, PAIRS), weight))
    store(out + i, sum_a, valid)
    store(out + count + i, sum_b, valid)
    store(out + 2 * count + i, sum_aa, valid)
    store(out + 3 * count + i, sum_bb, valid)
    store(out + 4 * count + i, sum_ab, valid)
    if mask is not None:
        store(out + 5 * count + i, mass, valid)


@triton.jit
def window_along(values, i, at, size, step, weights, side, valid, PAIRS: tl.constexpr):
    """The sum over the window along one axis, on which voxel i is at `at` of `size`; `step` leads to the next."""
    total = number(tl.zeros(i.shape, tl.float32), PAIRS)
    for j in range(side):
        offset = j - side // 2
        inside = valid & (at + offset >= 0) & (at + offset < size)
        total = add(total, times(load(values + i + offset * step, inside, PAIRS), tl.load(weights + j)))
    return total


@triton.jit
def sum_kernel(
    values, out, weights, side, size, step, count, PAIRS: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr
):
    """Window sums along an axis of `size` voxels, of all quantities alike."""
    i, valid = block(count, INDEX, BLOCK)
    store(out + i, window_along(values, i, i // step % size, size, step, weights, side, valid, PAIRS), valid)


@triton.jit
def windows_kernel(
    sums, weights, side, inside_z, inside_y, inside_x, levels, constants, mask, mask_steps, upstream, upstream_steps,
    values, factors, first, planes, size, channels, count,
    AVERAGED: tl.constexpr, VALID: tl.constexpr, TO_A: tl.constexpr, TO_B: tl.constexpr,
    PAIRS: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The last sums, along x; of each window the value, and what gradients sum over."""
    i, valid = block(count, INDEX, BLOCK)
    n, c, z, y, x = place(i, first, planes, size, channels)
    sum_a = wide(window_along(sums, i, x, size[2], 1, weights, side, valid, PAIRS))
    sum_b = wide(window_along(sums + count, i, x, size[2], 1, weights, side, valid, PAIRS))
    sum_aa = wide(window_along(sums + 2 * count, i, x, size[2], 1, weights, side, valid, PAIRS))
    sum_bb = wide(window_along(sums + 3 * count, i, x, size[2], 1, weights, side, valid, PAIRS))
    sum_ab = wide(window_along(sums + 4 * count, i, x, size[2], 1, weights, side, valid, PAIRS))
    within = tl.load(inside_z + z, mask=valid, other=1) * tl.load(inside_y + y, mask=valid, other=1)
    within *= tl.load(inside_x + x, mask=valid, other=1)
    whole = tl.load(constants + 4)
    counts = valid
    mass = within
    if mask is not None:
        mass = wide(window_along(sums + 5 * count, i, x, size[2], 1, weights, side, valid, PAIRS))
        counts = valid & (load_from(mask, mask_steps, n, 0, z, y, x, valid) != 0)
    total = mass if VALID else mass + whole - within
    share = tl.where(counts, 1 / tl.where(counts, total, 1), 0)
    mean_a = sum_a * share
    mean_b = sum_b * share
    var_a = sum_aa - sum_a * mean_a
    var_b = sum_bb - sum_b * mean_b
    cross = sum_ab - sum_a * mean_b
    level = levels + 4 * (n * channels + c)
    least_a = tl.load(level + 1, mask=valid, other=0)
    least_b = tl.load(level + 3, mask=valid, other=0)
    if PAIRS:
        least_a = tl.maximum(least_a, UNRESOLVED * sum_aa * share)
        least_b = tl.maximum(least_b, UNRESOLVED * sum_bb * share)
    flat_a = var_a * share <= least_a
    flat_b = var_b * share <= least_b
    unit = share if AVERAGED else counts.to(tl.float64)
    var_a = tl.where(flat_a, 0, var_a * unit)
    var_b = tl.where(flat_b, 0, var_b * unit)
    cross = tl.where(flat_a | flat_b, 0, cross * unit)
    floor = tl.load(constants + 1)
    limit = tl.load(constants + 3)
    factor_a = tl.where(var_a < floor, floor, var_a)
    factor_b = tl.where(var_b < floor, floor, var_b)
    inverse = 1 / (factor_a * factor_b + tl.load(constants + 2))
    ratio = (cross * cross + tl.load(constants)) * inverse
    tl.store(values + i, tl.where(counts, tl.where(ratio > limit, limit, ratio), 0), mask=valid)
    if TO_A or TO_B:
        asked = unit
        if upstream is not None:
            asked *= load_from(upstream, upstream_steps, n, c, z, y, x, valid).to(tl.float64)
        twice = tl.where(counts & (ratio <= limit), 2 * asked * inverse, 0)
        p = twice * cross
        mean_a -= tl.load(level, mask=valid, other=0)
        mean_b -= tl.load(level + 2, mask=valid, other=0)
        tl.store(factors + i, p, mask=valid)
        if TO_A:
            q_a = tl.where(var_a > floor, twice * ratio * factor_b, 0)
            tl.store(factors + count + i, q_a, mask=valid)
            tl.store(factors + 2 * count + i, q_a * mean_a - p * mean_b, mask=valid)
        if TO_B:
            q_b = tl.where(var_b > floor, twice * ratio * factor_a, 0)
            of_b = factors + (3 if TO_A else 1) * count
            tl.store(of_b + i, q_b, mask=valid)
            tl.store(of_b + count + i, q_b * mean_b - p * mean_a, mask=valid)


@triton.jit
def gradients_kernel(
    sums, weights, side, levels, a, a_steps, b, b_steps, mask, mask_steps, grad_a, grad_b, own, first, planes, size,
    channels, count, TO_A: tl.constexpr, TO_B: tl.constexpr, PAIRS: tl.constexpr, INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The last sums, along x, and the gradients to the planes from own[0] up to own[1]."""
    i, valid = block(count, INDEX, BLOCK)
    n, c, z, y, x = place(i, first, planes, size, channels)
    valid = valid & (z >= own[0]) & (z < own[1])
    to = (((n * channels + c) * size[0] + z) * size[1] + y) * size[2] + x
    level = levels + 4 * (n * channels + c)
    value_a = load_masked(a, a_steps, mask, mask_steps, n, c, z, y, x, valid) - tl.load(level, mask=valid, other=0)
    value_b = load_masked(b, b_steps, mask, mask_steps, n, c, z, y, x, valid) - tl.load(level + 2, mask=valid, other=0)
    counts = valid
    if mask is not None:
        counts = valid & (load_from(mask, mask_steps, n, 0, z, y, x, valid) != 0)
    p = wide(window_along(sums, i, x, size[2], 1, weights, side, valid, PAIRS))
    if TO_A:
        q = wide(window_along(sums + count, i, x, size[2], 1, weights, side, valid, PAIRS))
        r = wide(window_along(sums + 2 * count, i, x, size[2], 1, weights, side, valid, PAIRS))
        tl.store(grad_a + to, tl.where(counts, p * value_b - q * value_a + r, 0), mask=valid)
    if TO_B:
        of_b = sums + (3 if TO_A else 1) * count
        q = wide(window_along(of_b, i, x, size[2], 1, weights, side, valid, PAIRS))
        r = wide(window_along(of_b + count, i, x, size[2], 1, weights, side, valid, PAIRS))
        tl.store(grad_b + to, tl.where(counts, p * value_a - q * value_b + r, 0), mask=valid)


class Volume(NamedTuple):
    """A tensor (N, C, *spatial) as kernels take it: with strides of five axes, 0 along those it lacks."""

    data: Tensor | None
    steps: tuple[int, ...] | None

    @classmethod
    def of(cls, tensor: Tensor | None) -> Volume:
        if tensor is None:
            return cls(None, None)
        steps = strides(tensor)
        return cls(tensor, steps[:2] + (0,) * (5 - tensor.ndim) + steps[2:])


def _levels(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of every channel the mean, to measure intensities from, and the largest mean variance that counts as flat."""
    if mask is not None:
        image = torch.where(mask, image, 0)
    flat = image.flatten(2)
    low, high = flat.aminmax(dim=2)
    largest = torch.maximum(low.abs(), high.abs()).double()
    return flat.mean(2, dtype=torch.promote_types(image.dtype, torch.float32)).double(), FLAT * largest * largest


def local_ncc(
    a: Tensor,
    b: Tensor,
    mask: Tensor | None,
    upstream: Tensor | None,
    window: list[int],
    weights: list[float],
    borders: str,
    constants: list[float],
    averaged: bool,
    windows: bool,
    to_a: bool,
    to_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference."""
    batch, channels = a.shape[:2]
    real = torch.float64 if a.dtype == torch.float64 else torch.float32
    absent = 5 - a.ndim
    size, sides = (1,) * absent + tuple(a.shape[2:]), (1,) * absent + tuple(window)
    doubles: dict[str, Any] = {"dtype": torch.float64, "device": a.device}
    pairs = in_pairs(a.device) and real == torch.float32
    every_weight = numbers([1.0] * absent + (list(weights) or [1.0] * sum(window)), a, torch.float64)
    tables = torch.split(every_weight.to(factor_of(pairs)), list(sides))
    axes = [w.double() for w in tables]
    inside = [window_sum(torch.ones(1, 1, s, **doubles), [w]) for s, w in zip(size, axes, strict=True)]
    scalars = torch.cat([numbers(constants, a, torch.float64), torch.stack([w.sum() for w in axes]).prod()[None]])
    levels = torch.stack([*_levels(a, mask), *_levels(b, mask)], 2)

    every = a.new_empty(a.shape if windows else (0,), dtype=real)
    totals = torch.zeros(batch * channels, **doubles)
    grads = [t.new_empty(t.shape if asked else (0,), dtype=real) for t, asked in ((a, to_a), (b, to_b))]
    images, masked, weighted = (Volume.of(a), Volume.of(b)), Volume.of(mask), Volume.of(upstream)
    index = index_of(a, b, mask, upstream)
    gradients = to_a or to_b
    halo = sides[0] // 2 if gradients else 0
    own_planes = min(max(PLANES, 2 * halo), size[0])
    some = max(VOXELS // ((own_planes + 2 * halo) * size[1] * size[2]), 1)  # channels at once

    for channel in range(0, batch * channels, some):
        for plane in range(0, size[0], own_planes):
            own = plane, min(plane + own_planes, size[0])
            start, end = max(own[0] - halo, 0), min(own[1] + halo, size[0])
            shape = (min(some, batch * channels - channel), end - start, *size[1:])
            count = prod(shape)

            def run(kernel: Any, *arguments: Any, times: int = 1, count: int = count, **options: Any) -> None:
                programs = triton.cdiv(times * count, BLOCK)
                launch(kernel, programs, (*arguments, times * count), PAIRS=pairs, INDEX=index, BLOCK=BLOCK, **options)

            def along(axis: int, values: Tensor, shape: tuple[int, ...] = shape, run: Any = run) -> Tensor:
                out = values.new_empty(values.shape, dtype=dtype_of(pairs))
                step, times = prod(shape[axis + 2 :]), values.numel() // prod(shape)
                run(sum_kernel, values, out, tables[axis], sides[axis], shape[axis + 1], step, times=times)
                return out

            slab = (channel, start), end - start, size, channels
            sums = torch.empty(5 + (mask is not None), *shape, dtype=dtype_of(pairs), device=a.device)
            run(moments_kernel, *images[0], *images[1], *masked, sums, tables[0], sides[0], *slab)
            values = a.new_empty(shape, dtype=real)
            factors = a.new_empty(1 + 2 * to_a + 2 * to_b if gradients else 0, *shape, dtype=real)
            run(
                windows_kernel,
                *(
                    along(1, sums),
                    tables[2],
                    sides[2],
                    *inside,
                    levels,
                    scalars,
                    *masked,
                    *weighted,
                    values,
                    factors,
                ),
                *slab,
                AVERAGED=averaged,
                VALID=borders == "valid",
                TO_A=to_a,
                TO_B=to_b,
            )
            mine = values[:, own[0] - start : own[1] - start].flatten(1)
            of_slab = slice(channel, channel + shape[0])
            totals[of_slab] += mine.sum(1, dtype=torch.float64)
            if windows:
                every.view(batch * channels, size[0], -1)[of_slab, own[0] : own[1]].flatten(1).copy_(mine)
            if gradients:
                run(
                    gradients_kernel,
                    *(
                        along(1, along(0, factors)),
                        tables[2],
                        sides[2],
                        levels,
                        *images[0],
                        *images[1],
                        *masked,
                        *grads,
                    ),
                    own,
                    *slab,
                    TO_A=to_a,
                    TO_B=to_b,
                )
    return every if windows else totals.view(batch, channels).sum(1).to(real), grads[0], grads[1]
