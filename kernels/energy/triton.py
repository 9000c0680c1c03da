"""Energies of a displacement field and their gradients in Triton: a launch for every term.

As on the CPU a term is taps with weights, on a domain; here its differences are made again for every voxel that gathers
them, from values that the caches hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.constants import numbers
from ..common.triton_launch import block_of, index_of, launch, real_of

Tap = tuple[tuple[int, int, int], float]
Term = tuple[list[Tap], list[int], list[int], float]


@triton.jit
def _difference(u, z, y, x, d, h, w, low, high, valid, taps, count, REAL: tl.constexpr):
    """Of a term, at voxels of its domain, whose distances to both ends are packed in two bits an axis; 0 elsewhere."""
    inside = valid & (z >= (low & 3)) & (y >= (low >> 2 & 3)) & (x >= (low >> 4 & 3))
    inside = inside & (z < d - (high & 3)) & (y < h - (high >> 2 & 3)) & (x < w - (high >> 4 & 3))
    e = tl.zeros(x.shape, REAL)
    for t in range(count):
        dz, dy, dx = tl.load(taps + 4 * t), tl.load(taps + 4 * t + 1), tl.load(taps + 4 * t + 2)
        at = ((z + dz.to(z.dtype)) * h + y + dy.to(z.dtype)) * w + x + dx.to(z.dtype)
        e += tl.load(taps + 4 * t + 3).to(REAL) * tl.load(u + at, mask=inside, other=0).to(REAL)
    return tl.where(inside, e, 0)


@triton.jit
def term_kernel(
    u, gradient, partial, taps, count, low, high, d, h, w, voxels, blocks, share,
    ABSOLUTE: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds a term to the gradient of one component, and its part of the energy to the sum of the block."""
    component, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    i = block.to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = i < voxels
    z, y, x = i // (h * w), i // w % h, i % w
    u += component.to(INDEX) * voxels
    own = _difference(u, z, y, x, d, h, w, low, high, valid, taps, count, REAL)
    weight = tl.load(share)
    total = tl.zeros((BLOCK,), REAL)
    for t in range(count):
        dz, dy, dx = tl.load(taps + 4 * t), tl.load(taps + 4 * t + 1), tl.load(taps + 4 * t + 2)
        from_z, from_y, from_x = z - dz.to(z.dtype), y - dy.to(z.dtype), x - dx.to(z.dtype)
        e = _difference(u, from_z, from_y, from_x, d, h, w, low, high, valid, taps, count, REAL)
        slope = (e > 0).to(REAL) - (e < 0).to(REAL) if ABSOLUTE else 2 * e
        total += tl.load(taps + 4 * t + 3).to(REAL) * slope
    to = gradient + component.to(INDEX) * voxels + i
    tl.store(to, tl.load(to, mask=valid, other=0) + total * weight.to(REAL), mask=valid)
    terms = tl.abs(own) if ABSOLUTE else own * own
    sums = partial + tl.program_id(0)
    tl.store(sums, tl.load(sums) + tl.sum(terms).to(tl.float64) * weight)


def _energy(
    disp: Tensor, terms: list[tuple[list[Tap], list[int], list[int], float]], absolute: bool
) -> tuple[Tensor, Tensor]:
    """Terms: taps, the distances of the domain to the first and the last voxel of each axis, weight."""
    disp = disp.contiguous()
    items, ndim = disp.shape[:2]
    d, h, w = [1] * (3 - ndim) + list(disp.shape[2:])
    voxels, block = d * h * w, block_of(disp.dtype)
    blocks = triton.cdiv(voxels, block)
    gradient = torch.zeros_like(disp)
    partial = disp.new_zeros((items, ndim * blocks), dtype=torch.float64)
    for taps, low, high, weight in terms:
        domain = 1
        for size, a, b in zip((d, h, w), low, high, strict=True):
            domain *= size - a - b
        share = disp.new_full((1,), weight / (ndim * domain), dtype=torch.float64)
        packed = [sum(distance << 2 * axis for axis, distance in enumerate(side)) for side in (low, high)]
        listed = numbers([x for offset, c in taps for x in (*offset, c)], disp, torch.float32)
        launch(
            term_kernel,
            items * ndim * blocks,
            (disp, gradient, partial, listed, len(taps), *packed, d, h, w, voxels, blocks, share),
            ABSOLUTE=absolute,
            REAL=real_of(disp.dtype),
            INDEX=index_of(disp),
            BLOCK=block,
        )
    return partial.sum(1).to(disp.dtype), gradient


def _along(axis: int, step: int) -> tuple[int, int, int]:
    z, y, x = (step * (k == axis) for k in range(3))
    return z, y, x


def diffusion_energy(disp: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    ndim, terms = disp.shape[1], []
    for axis, side in enumerate(spacing, 3 - ndim):
        if disp.shape[axis - 3] > 1:
            taps = [(_along(axis, 0), -1.0), (_along(axis, 1), 1.0)]
            terms.append((taps, [0, 0, 0], list(_along(axis, 1)), 1 / (ndim * side**2)))
    return _energy(disp, terms, False)


def bending_energy(disp: Tensor, compact: bool) -> tuple[Tensor, Tensor]:
    ndim, terms = disp.shape[1], []
    inner = [(1 if compact else 2) * (axis >= 3 - ndim) for axis in range(3)]
    for k in range(3 - ndim, 3):
        for m in range(k, 3):
            taps: list[Tap] = []
            for a, b in product((-1, 1), repeat=2):
                z, y, x = (p + q for p, q in zip(_along(k, a), _along(m, b), strict=True))
                taps.append(((z, y, x), a * b / 4))
            if k == m and compact:
                taps = [(_along(k, -1), 1.0), (_along(k, 0), -2.0), (_along(k, 1), 1.0)]
            elif k == m:
                taps = [taps[0], ((0, 0, 0), -0.5), taps[3]]
            terms.append((taps, inner, inner, 1.0 if k == m else 2.0))
    return _energy(disp, terms, False)


def gradient_energy(disp: Tensor, absolute: bool) -> tuple[Tensor, Tensor]:
    ndim = disp.shape[1]
    inner = [int(axis >= 3 - ndim) for axis in range(3)]
    terms = [([(_along(k, -1), -0.5), (_along(k, 1), 0.5)], inner, inner, 1.0) for k in range(3 - ndim, 3)]
    return _energy(disp, terms, absolute)
