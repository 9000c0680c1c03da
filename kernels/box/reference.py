"""Repeated moving average over a box: the definition.

    out(x) = 1 / (2 radius + 1)^ndim * sum over |e_k| <= radius of in(x + e),   `passes` times,

with the border repeated or, for padding "zeros", zeros outside, which count in the average. For "extended" the border
is repeated before all passes, which then average what they made outside as well. Three passes are close to a Gaussian
and, at radius 1, are the cubic B-spline kernel of a control-point field.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def box_average(image: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    """image (N, C, *spatial) -> the same shape."""
    ndim = image.ndim - 2
    margin, mode = [radius] * 2 * ndim, "constant" if padding == "zeros" else "replicate"
    if padding == "extended":
        image = F.pad(image, [passes * m for m in margin], mode=mode)
    for _ in range(passes):
        if padding != "extended":
            image = F.pad(image, margin, mode=mode)
        for axis in range(2, 2 + ndim):
            image = image.unfold(axis, 2 * radius + 1, 1).mean(-1)
    return image


def _folded(grad: Tensor, radius: int, passes: int) -> Tensor:
    """The adjoint of averages of an image with its border repeated: what lies outside goes back to the border."""
    reach = radius * passes
    for axis in range(2, grad.ndim):
        size = grad.shape[axis]
        spread = F.pad(grad.movedim(axis, -1), [2 * reach, 2 * reach])
        for _ in range(passes):
            spread = spread.unfold(-1, 2 * radius + 1, 1).mean(-1)
        inner = spread[..., reach : reach + size].clone()
        inner[..., 0] += spread[..., :reach].sum(-1)
        inner[..., -1] += spread[..., reach + size :].sum(-1)
        grad = inner.movedim(-1, axis)
    return grad


def box_average_backward(grad: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    """The adjoint."""
    if padding == "zeros":
        return box_average(grad, radius, passes, padding)
    if padding == "extended":
        return _folded(grad, radius, passes)
    for _ in range(passes):
        grad = _folded(grad, radius, 1)
    return grad
