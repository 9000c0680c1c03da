"""Sum of squared differences to a warped image, and its gradient to the field: the definition.

    loss(n) = 1/|X| sum over x, c of r^2,   r = moving(n, c, x + disp(n, :, x)) - fixed(n, c, x)
    d loss / d disp_k(n, x) = 2/|X| sum over c of r * d moving / d x_k

linear interpolation, border padding, |X| the number of voxels of disp.
"""

from __future__ import annotations

from torch import Tensor

from ..warp.reference import warp, warp_backward


def warp_ssd(fixed: Tensor, moving: Tensor, disp: Tensor) -> tuple[Tensor, Tensor]:
    """fixed (N, C, *out), moving (N, C, *in), disp (N, ndim, *out) -> loss (N,), gradient like disp."""
    residual = warp(moving, disp, "linear", "border") - fixed
    voxels = disp[0, 0].numel()
    _, gradient = warp_backward(2 / voxels * residual, moving, disp, "linear", "border", False, True)
    return residual.square().flatten(1).sum(1) / voxels, gradient
