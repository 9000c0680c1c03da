"""Squared local normalised cross-correlation of two images, and its gradients: the definition.

With S[.] the weighted sum over the window around x, w its weights, zero outside the image and the mask, and N the sum
of the weights that count (`borders` below),

    cross = S[ab] - S[a] S[b] / N,   var_a = S[aa] - S[a]^2 / N,   var_b likewise,   all / N if `averaged`,
    value = (cross^2 + numerator) / (max(var_a, floor) max(var_b, floor) + eps),   at most `limit`.

With numerator = floor = 0 that is the NCC of VoxelMorph (Balakrishnan et al., TMI 2019); other constants give that of
MONAI and FireANTs. A window is flat where its standard deviation is below 1e-7 of the largest magnitude in its channel,
what float32 does not resolve there: then var and cross are 0. With the factors of the derivatives by cross and by the
variances,

    P = 2 cross / denominator,   Q_a = 2 value max(var_b, floor) / denominator where var_a > floor, else 0,

(both / N if averaged, both 0 at the limit, both times what the loss asks of the window), the gradient by a is

    S[P] b - S[Q_a] a + S[Q_a S[a] / N - P S[b] / N]   inside the mask.

Windows may be of whole blocks of voxels, one around every block: the sums over a window are then of the sums over its
blocks, w the weights of blocks, N that of their voxels, and P, Q and what is beside them the same in all of a block.

All is computed in float64: where intensities are large beside their variation in a window, variances are small
differences of large sums.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.constants import numbers

FLAT = 1e-14  # of a mean variance, in squares of the largest magnitude


def window_sum(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Weighted sums over the window around every voxel of x (N, C, *spatial), zeros outside; weights by axis."""
    for axis, w in enumerate(weights, start=2):
        size, radius = x.shape[axis], len(w) // 2
        padded = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [radius, radius])
        x = reduce(torch.add, (w[j] * padded.narrow(axis, j, size) for j in range(len(w))))
    return x


def block_sum(x: Tensor, blocks: list[int]) -> Tensor:
    """Sums over the whole blocks of x (N, C, *spatial), of so many voxels along each axis."""
    for axis, side in enumerate(blocks, start=2):
        count = x.shape[axis] // side
        if side > 1:
            x = (
                x.narrow(axis, 0, count * side)
                .reshape(*x.shape[:axis], count, side, *x.shape[axis + 1 :])
                .sum(axis + 1)
            )
    return x


def over_blocks(x: Tensor, blocks: list[int], like: Tensor) -> Tensor:
    """Each block's value at all of its voxels; 0 at those of like (N, C, *spatial) that are in none."""
    for axis, side in enumerate(blocks, start=2):
        x = x.repeat_interleave(side, axis)
        beyond = like.shape[axis] - x.shape[axis]
        x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, beyond]) if beyond else x
    return x


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
    """See `of_blocks`, each of one voxel."""
    one = [1] * (a.ndim - 2)
    return of_blocks(a, b, mask, upstream, window, weights, borders, constants, averaged, windows, to_a, to_b, one)


def of_blocks(
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
    blocks: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b (N, C, *spatial) -> values, gradients to a and b (an empty tensor for one not asked for).

    Args:
        mask: (1 or N, 1, *spatial), bool: the voxels that count, in windows and, where any of a block does, as centres.
        upstream: (N, C, *blocks): gradients are those of the values weighted by it; without, of their sum.
        window: odd sides by axis, in blocks.
        weights: of the blocks of a window along each axis, one axis after the other, symmetric; empty: all 1.
        borders: ``"zeros"``: what is outside the image counts in N as zeros; ``"valid"``: it does not.
        constants: numerator, floor, eps, limit.
        averaged: whether cross and variances are means over the window.
        windows: whether to return the value of every window, (N, C, *blocks), or their sums (N,).
        blocks: voxels of a block along each axis.
    """
    numerator, floor, eps, limit = constants
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    every = numbers(weights or [1.0] * sum(window), a, torch.float64)
    axes = torch.split(every, list(window))

    def windowed(x: Tensor) -> Tensor:
        return window_sum(x, list(axes))

    def sums(x: Tensor) -> Tensor:
        return windowed(block_sum(x, blocks))

    inside = torch.ones_like(a[:1, :1], dtype=torch.float64) if mask is None else mask.double()
    count = sums(inside)
    if borders == "zeros":
        whole = math.prod(blocks) * reduce(torch.mul, (w.sum() for w in axes))
        count = count + whole - sums(torch.ones_like(inside[:1]))
    centre = block_sum(inside, blocks) > 0
    share = torch.where(centre, 1 / count, 0)  # elsewhere no window counts, and all of it may be outside the mask
    a, b = (torch.where(inside > 0, x.double(), 0) for x in (a, b))
    mean_a, mean_b = sums(a) * share, sums(b) * share
    cross = sums(a * b) - sums(a) * mean_b
    var_a, var_b = sums(a * a) - sums(a) * mean_a, sums(b * b) - sums(b) * mean_b
    flat_a, flat_b = (
        v * share <= FLAT * x.flatten(2).square().amax(2).view(*x.shape[:2], *[1] * (x.ndim - 2))
        for v, x in ((var_a, a), (var_b, b))
    )
    unit = share if averaged else centre.double()
    var_a, var_b = torch.where(flat_a, 0, var_a * unit), torch.where(flat_b, 0, var_b * unit)
    cross = torch.where(flat_a | flat_b, 0, cross * unit)
    factor_a, factor_b = var_a.clamp(min=floor), var_b.clamp(min=floor)
    denominator = factor_a * factor_b + eps
    ratio = (cross * cross + numerator) / denominator
    value = torch.where(centre, ratio.clamp(max=limit), 0)
    result = (value if windows else value.flatten(1).sum(1)).to(dtype)

    asked = torch.where(centre & (ratio <= limit), unit if upstream is None else unit * upstream, 0)
    p = 2 * asked * torch.where(flat_a | flat_b, 0, cross) / denominator
    q_a = 2 * asked * ratio * torch.where(var_a > floor, factor_b, 0) / denominator
    q_b = 2 * asked * ratio * torch.where(var_b > floor, factor_a, 0) / denominator

    def gradient(own: Tensor, other: Tensor, q: Tensor, mean_own: Tensor, mean_other: Tensor) -> Tensor:
        by_other, by_own, rest = (over_blocks(windowed(x), blocks, own) for x in (p, q, q * mean_own - p * mean_other))
        full = by_other * other - by_own * own + rest
        return torch.where(inside > 0, full, 0).to(dtype)

    return (  # an operator may not return one tensor twice
        result,
        gradient(a, b, q_a, mean_a, mean_b) if to_a else a.new_zeros(0, dtype=dtype),
        gradient(b, a, q_b, mean_b, mean_a) if to_b else b.new_zeros(0, dtype=dtype),
    )
