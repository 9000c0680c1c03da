"""Joint histograms with Parzen windows in Triton: matrix products of what the voxels of a block add to a tile of bins.

Dense, where the CPU's windows are cut: a tile has hardly more bins than a window. A program of the histogram goes over
some blocks of voxels for one tile; its sums are in float64, or where that is slow in pairs of float32, and those of all
programs are added in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.precision import in_pairs
from ..common.triton_launch import block_of, index_of, launch, real_of
from ..common.triton_pairs import add, number, wide

TILE = 32  # bins of a or b
BLOCKS = 64  # of a program, at most


@triton.jit
def window(x, first, bins, sharpness, WINDOW: tl.constexpr, TILE: tl.constexpr, REAL: tl.constexpr):
    """-> windows about the bins of a tile, (BLOCK, TILE), and their derivatives, up to a factor for a voxel."""
    bin = first + tl.arange(0, TILE)
    d = x[:, None] - bin.to(REAL)[None, :]
    distance = tl.abs(d)
    if WINDOW == "gaussian":
        nearest = x - tl.floor(x + 0.5)
        k = tl.exp(((nearest * nearest)[:, None] - d * d) * (sharpness * 0.5))
        slope = -sharpness * d * k
    elif WINDOW == "cubic":
        outer = tl.where(distance < 2, 2 - distance, 0)
        inner = tl.where(distance < 1, 1 - distance, 0)
        k = (outer * outer * outer - 4 * inner * inner * inner) / 6
        slope = (2 * inner * inner - 0.5 * outer * outer) * tl.where(d < 0, -1.0, 1.0)
    else:
        k = tl.where(distance < 0.5, 1.0, 0.0) + tl.where(distance == 0.5, 0.5, 0.0)
        slope = 0 * k
    exists = (bin < bins)[None, :]
    return tl.where(exists, k, 0).to(REAL), tl.where(exists, slope, 0).to(REAL)


@triton.jit
def placed(image, at, valid, bins, sharpness, WINDOW: tl.constexpr, TILE: tl.constexpr, REAL: tl.constexpr):
    """-> intensities within the bins, 0 for those that were beyond and else 1, sums over the bins of their windows, of
    the derivatives."""
    given = tl.load(image + at, mask=valid, other=0).to(REAL)
    last = (bins - 1).to(REAL)
    x = tl.where(given < 0, 0, given)  # and NaN stays
    x = tl.where(x > last, last, x)
    within = tl.where((given < 0) | (given > last), 0.0, 1.0).to(REAL)
    total = tl.zeros(at.shape, REAL)
    change = tl.zeros(at.shape, REAL)
    for first in range(0, bins, TILE):
        k, slope = window(x, first, bins, sharpness, WINDOW, TILE, REAL)
        total += tl.sum(k, 1)
        change += tl.sum(slope, 1)
    return x, within, total, change


@triton.jit
def spread(
    x, within, total, change, first, bins, sharpness, WINDOW: tl.constexpr, TILE: tl.constexpr, REAL: tl.constexpr
):
    """-> what voxels add to the bins of a tile, (BLOCK, TILE), and the derivative."""
    k, slope = window(x, first, bins, sharpness, WINDOW, TILE, REAL)
    p = k / total[:, None]
    return p, (slope - p * change[:, None]) * (within / total)[:, None]


@triton.jit
def histogram_kernel(
    a, b, weight, partial, constants, voxels, bins, blocks, parts, tiles,
    WINDOW_A: tl.constexpr, WINDOW_B: tl.constexpr, TILE: tl.constexpr, REAL: tl.constexpr, PAIRS: tl.constexpr,
    INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile_a, tile_b = tl.program_id(0) // tiles % tiles * TILE, tl.program_id(0) % tiles * TILE
    part = tl.program_id(0) // (tiles * tiles)
    item = (part // parts).to(INDEX) * voxels
    sharpness = tl.load(constants).to(REAL)
    sums = number(tl.zeros((TILE, TILE), REAL), PAIRS)
    for block in range(blocks):
        v = ((part % parts).to(INDEX) * blocks + block) * BLOCK + tl.arange(0, BLOCK)
        valid = v < voxels
        x, within_x, total_x, change_x = placed(a, item + v, valid, bins, sharpness, WINDOW_A, TILE, REAL)
        y, within_y, total_y, change_y = placed(b, item + v, valid, bins, sharpness, WINDOW_B, TILE, REAL)
        p, _ = spread(x, within_x, total_x, change_x, tile_a, bins, sharpness, WINDOW_A, TILE, REAL)
        q, _ = spread(y, within_y, total_y, change_y, tile_b, bins, sharpness, WINDOW_B, TILE, REAL)
        if weight is not None:
            p *= tl.load(weight + item + v, mask=valid, other=0).to(REAL)[:, None]
        p = tl.where(valid[:, None], p, 0)
        sums = add(sums, number(tl.dot(tl.trans(p), q, input_precision="ieee"), PAIRS))
    i = tl.arange(0, TILE)
    to = partial + part.to(tl.int64) * (tiles * TILE) * (tiles * TILE)
    tl.store(to + (tile_a + i)[:, None] * (tiles * TILE) + (tile_b + i)[None, :], wide(sums))


@triton.jit
def histogram_backward_kernel(
    grad, a, b, weight, to_a, to_b, constants, voxels, bins, blocks,
    WINDOW_A: tl.constexpr, WINDOW_B: tl.constexpr, TILE: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    item, v = tl.program_id(0) // blocks, (tl.program_id(0) % blocks).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = v < voxels
    at = item.to(INDEX) * voxels + v
    grad += item.to(tl.int64) * bins * bins
    sharpness = tl.load(constants).to(REAL)
    x, within_x, total_x, change_x = placed(a, at, valid, bins, sharpness, WINDOW_A, TILE, REAL)
    y, within_y, total_y, change_y = placed(b, at, valid, bins, sharpness, WINDOW_B, TILE, REAL)
    of_a = tl.zeros((BLOCK,), REAL)
    of_b = tl.zeros((BLOCK,), REAL)
    for tile_a in range(0, bins, TILE):
        p, p_slope = spread(x, within_x, total_x, change_x, tile_a, bins, sharpness, WINDOW_A, TILE, REAL)
        for tile_b in range(0, bins, TILE):
            q, q_slope = spread(y, within_y, total_y, change_y, tile_b, bins, sharpness, WINDOW_B, TILE, REAL)
            i, j = (tile_a + tl.arange(0, TILE))[:, None], (tile_b + tl.arange(0, TILE))[None, :]
            g = tl.load(grad + i * bins + j, mask=(i < bins) & (j < bins), other=0).to(REAL)
            if to_a is not None:
                of_a += tl.sum(tl.dot(p_slope, g, input_precision="ieee") * q, 1)
            if to_b is not None:
                of_b += tl.sum(tl.dot(p, g, input_precision="ieee") * q_slope, 1)
    if weight is not None:
        factor = tl.load(weight + at, mask=valid, other=0).to(REAL)
        of_a *= factor
        of_b *= factor
    if to_a is not None:
        tl.store(to_a + at, of_a, mask=valid)
    if to_b is not None:
        tl.store(to_b + at, of_b, mask=valid)


def _options(a: Tensor, window_a: str, window_b: str) -> dict[str, Any]:
    # A block has TILE numbers for each voxel, of which those in float64 leave few registers; matrix products want 16
    # voxels at least.
    block = max(16, block_of(a.dtype) // (8 if a.dtype == torch.float64 else 4))
    windows = {"WINDOW_A": window_a, "WINDOW_B": window_b}
    return windows | {"TILE": TILE, "REAL": real_of(a.dtype), "INDEX": index_of(a), "BLOCK": block}


def joint_histogram(
    a: Tensor, b: Tensor, weight: Tensor | None, bins: int, window_a: str, window_b: str, sigma: float
) -> Tensor:
    a, b, weight = a.contiguous(), b.contiguous(), None if weight is None else weight.contiguous()
    options = _options(a, window_a, window_b)
    items, voxels = a.shape[0], a[0].numel()
    blocks, tiles = min(BLOCKS, triton.cdiv(voxels, options["BLOCK"])), triton.cdiv(bins, TILE)
    parts = triton.cdiv(voxels, options["BLOCK"] * blocks)
    partial = a.new_empty((items, parts, tiles * TILE, tiles * TILE), dtype=torch.float64)
    constants = a.new_full((1,), sigma**-2, dtype=torch.float64)
    arguments = (a, b, weight, partial, constants, voxels, bins, blocks, parts, tiles)
    pairs = in_pairs(a.device) and a.dtype != torch.float64
    launch(histogram_kernel, items * parts * tiles * tiles, arguments, PAIRS=pairs, **options)
    return partial.sum(1)[:, :bins, :bins].contiguous()


def joint_histogram_backward(
    grad: Tensor, a: Tensor, b: Tensor, weight: Tensor | None, bins: int, window_a: str, window_b: str, sigma: float,
    to_a: bool, to_b: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    a, b, weight = a.contiguous(), b.contiguous(), None if weight is None else weight.contiguous()
    options = _options(a, window_a, window_b)
    items, voxels = a.shape[0], a[0].numel()
    blocks = triton.cdiv(voxels, options["BLOCK"])
    results = [torch.empty_like(image) if asked else image.new_empty(0) for image, asked in ((a, to_a), (b, to_b))]
    outputs = [result if asked else None for result, asked in zip(results, (to_a, to_b), strict=True)]
    constants = a.new_full((1,), sigma**-2, dtype=torch.float64)
    arguments = (grad.to(a.dtype).contiguous(), a, b, weight, *outputs, constants, voxels, bins, blocks)
    launch(histogram_backward_kernel, items * blocks, arguments, **options)
    return results[0], results[1]
