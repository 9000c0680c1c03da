"""Local normalised cross-correlation with a warped image, and its gradient to the field: the definition.

    value(n) = scale(n) times the sum over windows of the local NCC of fixed and moving(n, c, x + disp(n, :, x))

as in ``lncc/reference.py``, the gradient that of ``warp/reference.py``, linear interpolation; by displacements of whole
blocks where windows are of such.
"""

from __future__ import annotations

from torch import Tensor

from ..lncc.reference import block_sum, of_blocks
from ..warp.reference import warp, warp_backward


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
    """fixed (N, C, *out), moving (N, C, *in), disp (N, ndim, *out), scale (N,) -> values (N,) and gradients.

    These are (N, ndim, *coarse), of blocks of so many voxels.
    """
    warped = warp(moving, disp, "linear", padding)
    options = (window, weights, borders, constants, averaged)
    value, _, slope = of_blocks(fixed, warped, mask, None, *options, False, False, True, blocks)
    slope = scale.view(-1, *[1] * (slope.ndim - 1)) * slope.to(disp.dtype)
    _, gradient = warp_backward(slope, moving, disp, "linear", padding, False, True)
    return scale * value.to(disp.dtype), block_sum(gradient, blocks)
