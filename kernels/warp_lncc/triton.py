"""Local NCC of a warped image in Triton: item by item, so that no more than one warped item is in memory."""

from __future__ import annotations

from torch import Tensor

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
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    options = (window, weights, borders, constants, averaged)
    values, gradients = disp.new_empty(disp.shape[0]), disp.new_empty(disp.shape)
    for n in range(disp.shape[0]):
        item = slice(n, n + 1)
        counts = mask if mask is None or mask.shape[0] == 1 else mask[item]
        warped = warp(moving[item], disp[item], "linear", padding)
        value, _, slope = local_ncc(fixed[item], warped, counts, None, *options, windows=False, to_a=False, to_b=True)
        slope *= scale[n]
        values[n] = scale[n] * value[0]
        _, gradients[item] = warp_backward(slope, moving[item], disp[item], "linear", padding, False, True)
    return values, gradients
