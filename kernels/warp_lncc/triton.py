"""Local NCC of a warped image in Triton: item by item, so that no more than one warped item is in memory.

That of whole blocks is the reference's, between the warp and its gradient: its sums are over fewer places.
"""

from __future__ import annotations

from torch import Tensor

from ..lncc.reference import block_sum, of_blocks
from ..lncc.triton import local_ncc
from ..warp.triton import warp, warp_backward


def warp_local_ncc(
    fixed: Tensor,
    moving: Tensor,
    disp: Tensor,
    mask: Tensor | None,
    scale: Tensor,
    window: list[int],
    weights: list[float],
    borders: str,
    constants: list[float],
    averaged: bool,
    padding: str,
    blocks: list[int],
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    options = (window, weights, borders, constants, averaged)
    values = disp.new_empty(disp.shape[0])
    gradients = disp.new_empty(*disp.shape[:2], *(n // side for n, side in zip(disp.shape[2:], blocks, strict=True)))
    for n in range(disp.shape[0]):
        item = slice(n, n + 1)
        counts = mask if mask is None or mask.shape[0] == 1 else mask[item]
        warped = warp(moving[item], disp[item], "linear", padding)
        arguments = (fixed[item], warped, counts, None, *options, False, False, True)
        value, _, slope = local_ncc(*arguments) if max(blocks) == 1 else of_blocks(*arguments, blocks)
        slope *= scale[n]
        values[n] = scale[n] * value[0]
        _, gradient = warp_backward(slope, moving[item], disp[item], "linear", padding, False, True)
        gradients[item] = block_sum(gradient, blocks)
    return values, gradients
