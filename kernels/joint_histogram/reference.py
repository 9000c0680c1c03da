"""Joint histograms of two images with Parzen windows: the definition.

    sums(n, i, j) = sum over voxels v of weight(v) p_i(a(v)) q_j(b(v))
    p_i(x) = k(x - i) / sum over bins j of k(x - j), and q_j(x) likewise

with a and b in units of bins: bin i, of 0 to bins - 1, is at i. Intensities beyond the first or the last bin count as
that bin's. The windows k, each of an image's own:

    gaussian    exp(-d^2 / (2 sigma^2))
    cubic       the cubic B-spline: (4 - 6 d^2 + 3 |d|^3) / 6 for |d| < 1, (2 - |d|)^3 / 6 for 1 <= |d| < 2
    box         1 for |d| < 1/2, 1/2 for |d| = 1/2; its derivative is 0

A voxel that is NaN makes sums of its item NaN, here all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLAB = 1 << 15  # voxels at a time: each is spread over all bins


def _window(d: Tensor, window: str, sigma: float) -> tuple[Tensor, Tensor]:
    """k and its derivative, up to a factor for all bins of a voxel."""
    if window == "gaussian":
        k = (d.square() / (-2 * sigma**2)).softmax(-1)  # the nearest bin's does not vanish
        return k, -d / sigma**2 * k
    if window == "cubic":
        outer, inner = (2 - d.abs()).clamp(min=0), (1 - d.abs()).clamp(min=0)
        return (outer**3 - 4 * inner**3) / 6, (4 * inner**2 - outer**2) / 2 * d.sign()
    return (d.abs() < 0.5).to(d.dtype) + 0.5 * (d.abs() == 0.5), torch.zeros_like(d)


def _spread(x: Tensor, bins: int, window: str, sigma: float) -> tuple[Tensor, Tensor]:
    """(N, V) -> p and its derivative, (N, V, bins)."""
    d = x.clamp(0, bins - 1).unsqueeze(-1) - torch.arange(bins, dtype=x.dtype, device=x.device)
    k, slope = _window(d, window, sigma)
    total = k.sum(-1, keepdim=True)
    slope = (slope - k / total * slope.sum(-1, keepdim=True)) / total
    return k / total, torch.where(((x < 0) | (x > bins - 1)).unsqueeze(-1), 0, slope)


def joint_histogram(
    a: Tensor, b: Tensor, weight: Tensor | None, bins: int, window_a: str, window_b: str, sigma: float
) -> Tensor:
    """a, b, weight (N, *any), float32 or float64 -> sums (N, bins, bins), float64."""
    sums = a.new_zeros((a.shape[0], bins, bins), dtype=torch.float64)
    a, b = a.flatten(1), b.flatten(1)
    for first in range(0, a.shape[1], SLAB):
        part = slice(first, first + SLAB)
        p, _ = _spread(a[:, part], bins, window_a, sigma)
        q, _ = _spread(b[:, part], bins, window_b, sigma)
        if weight is not None:
            p = p * weight.flatten(1)[:, part, None]
        sums = sums + p.transpose(1, 2).double() @ q.double()
    return sums


def joint_histogram_backward(
    grad: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    bins: int,
    window_a: str,
    window_b: str,
    sigma: float,
    to_a: bool,
    to_b: bool,
) -> tuple[Tensor, Tensor]:
    """grad (N, bins, bins) -> gradients like a and b; nothing, (0,), for one that is not asked for."""
    grads: list[list[Tensor]] = [[], []]
    flat = a.flatten(1), b.flatten(1)
    for first in range(0, flat[0].shape[1], SLAB):
        part = slice(first, first + SLAB)
        p, p_slope = _spread(flat[0][:, part], bins, window_a, sigma)
        q, q_slope = _spread(flat[1][:, part], bins, window_b, sigma)
        factor = 1 if weight is None else weight.flatten(1)[:, part]
        grads[0].append(factor * (p_slope.double() @ grad * q).sum(-1))
        grads[1].append(factor * (p.double() @ grad * q_slope).sum(-1))
    of_a, of_b = (torch.cat(parts, 1).view(a.shape).to(a.dtype) for parts in grads)
    return of_a if to_a else a.new_empty(0), of_b if to_b else b.new_empty(0)
