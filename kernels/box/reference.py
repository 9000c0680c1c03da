"""Repeated moving average over a box: the definition.

    out(x) = 1 / (2 radius + 1)^ndim * sum over |e_k| <= radius of in(x + e),   `passes` times,

with the border repeated or, for padding "zeros", zeros outside, which count in the average. Three passes are
close to a Gaussian and, at radius 1, are the cubic B-spline kernel of a control-point field.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def box_average(image: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    """image (N, C, *spatial) -> the same shape."""
    ndim = image.ndim - 2
    for _ in range(passes):
        padded = F.pad(image, [radius] * 2 * ndim, mode="replicate" if padding == "border" else "constant")
        for axis in range(2, 2 + ndim):
            padded = padded.unfold(axis, 2 * radius + 1, 1).mean(-1)
        image = padded
    return image


def box_average_backward(grad: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    """The adjoint: what a voxel outside repeated of the border goes back to the border."""
    if padding == "zeros":
        return box_average(grad, radius, passes, padding)
    width = 2 * radius + 1
    for _ in range(passes):
        for axis in range(2, grad.ndim):
            size = grad.shape[axis]
            spread = F.pad(grad.movedim(axis, -1), [2 * radius, 2 * radius]).unfold(-1, width, 1).mean(-1)
            inner = spread[..., radius : radius + size].clone()
            inner[..., 0] += spread[..., :radius].sum(-1)
            inner[..., -1] += spread[..., radius + size :].sum(-1)
            grad = inner.movedim(-1, axis)
    return grad
