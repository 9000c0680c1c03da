"""Squared local normalised cross-correlation, and its gradients: the definition.

With window sums S[.] over the (2 radius + 1)^ndim box around x, zeros outside, W voxels,

    cross = S[ab] - S[a] S[b] / W,   var_a = S[aa] - S[a]^2 / W,   var_b likewise,
    value(n) = mean over c, x of cross^2 / (var_a var_b + eps)

as in VoxelMorph (Balakrishnan et al., TMI 2019). With P = 2 cross / (var_a var_b + eps) and
Q = 2 cross^2 var_a / (var_a var_b + eps)^2 at every window, the gradient by b is

    S[P] a - S[P S[a]] / W - S[Q] b + S[Q S[b]] / W,   divided by the number of windows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _window_sum(x: Tensor, radius: int) -> Tensor:
    ndim = x.ndim - 2
    x = F.pad(x, [radius] * 2 * ndim)
    for axis in range(2, 2 + ndim):
        x = x.unfold(axis, 2 * radius + 1, 1).sum(-1)
    return x


def local_ncc(a: Tensor, b: Tensor, radius: int, eps: float, to_a: bool, to_b: bool) -> tuple[Tensor, Tensor, Tensor]:
    """a, b (N, C, *spatial) -> value (N,), gradients to a and b (an empty tensor for one not asked for)."""
    ndim = a.ndim - 2
    volume = (2 * radius + 1) ** ndim
    # Away from zero, where the differences below lose no digits; windows cut by the border are not indifferent
    # to a shift, hence the shifts again beside the number of voxels outside.
    shift_a, shift_b = (x.mean(dim=tuple(range(2, x.ndim)), keepdim=True) for x in (a, b))
    a, b = a - shift_a, b - shift_b
    sa, sb, saa, sbb, sab = (_window_sum(x, radius) for x in (a, b, a * a, b * b, a * b))
    inside = _window_sum(torch.ones_like(a[:1, :1]), radius)
    missing = 1 - inside / volume
    cross = sab - sa * sb / volume + missing * (shift_b * sa + shift_a * sb + inside * shift_a * shift_b)
    var_a = saa - sa * sa / volume + missing * shift_a * (2 * sa + inside * shift_a)
    var_b = sbb - sb * sb / volume + missing * shift_b * (2 * sb + inside * shift_b)
    var_a, var_b = var_a.clamp(min=0), var_b.clamp(min=0)
    denominator = var_a * var_b + eps
    value = (cross * cross / denominator).flatten(1).mean(1)
    scale = 1 / a[0].numel()
    p = 2 * scale * cross / denominator
    q = p * cross / denominator
    mean_a, mean_b = sa / volume - missing * shift_a, sb / volume - missing * shift_b

    def gradient(x: Tensor, y: Tensor, mean_x: Tensor, mean_y: Tensor, var_y: Tensor) -> Tensor:
        """By x: through cross with y, and through the variance of x, whose factor is that of y."""
        qy = q * var_y
        rest = _window_sum(qy * mean_x - p * mean_y, radius)
        return _window_sum(p, radius) * y - _window_sum(qy, radius) * x + rest

    empty = a.new_zeros(0)
    return (
        value,
        gradient(a, b, mean_a, mean_b, var_b) if to_a else empty,
        gradient(b, a, mean_b, mean_a, var_a) if to_b else empty,
    )
