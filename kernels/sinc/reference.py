"""Lanczos-windowed sinc interpolation of radius 5: the definition.

Along each axis the ten voxels around a sample weigh sinc(x) sinc(x / 5), where x is the distance and sinc(x) is
sin(pi x) / (pi x); in several dimensions a voxel weighs the product over the axes. The weights are not scaled to a sum
of 1. Outside, the image goes on as the padding says, without end: with "border" that is what ITK's
WindowedSincInterpolateImageFunction makes of it, which SimpleITK calls sitkLanczosWindowedSinc. A voxel of weight 0
does not count, even if it is NaN: on the grid, samples are the voxels. A coordinate that is not finite makes NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from ..common import sampling

RADIUS = 5


def sinc(image: Tensor, disp: Tensor, padding: str) -> Tensor:
    """image (N, C, *in), disp (N, ndim, *out) -> (N, C, *out)."""
    return _sample(image, sampling.displaced(disp), padding)


def affine_sinc(image: Tensor, matrix: Tensor, size: Sequence[int], padding: str) -> Tensor:
    """image (N, C, *in), matrix (N, ndim, ndim + 1): output voxel -> image voxel -> (N, C, *size)."""
    return _sample(image, sampling.transformed(matrix, sampling.coordinates(list(size), matrix)), padding)


def _sample(image: Tensor, positions: Tensor, padding: str) -> Tensor:
    image, positions = sampling.one_batch(image, positions)
    finite = positions.nan_to_num(0.0, 0.0, 0.0)
    axes = [_taps(finite[:, k], size, padding) for k, size in enumerate(image.shape[2:])]
    out = torch.zeros((*image.shape[:2], *positions.shape[2:]), dtype=positions.dtype, device=image.device)
    for taps in product(*axes):
        weight = torch.stack([w for _, w in taps]).prod(0).unsqueeze(1)
        value = sampling.gather(image, [index for index, _ in taps])
        out += weight * torch.where(weight == 0, 0, value)
    return torch.where(sampling.are_finite(positions).unsqueeze(1), out, torch.nan).to(image.dtype)


def _taps(p: Tensor, size: int, padding: str) -> list[tuple[Tensor, Tensor]]:
    """The ten voxels around every position on one axis: (index, weight) each."""
    if padding == "reflection":
        p = sampling.inside(p, size, padding)[0]
    low = torch.floor(p)
    first = low.clamp(-RADIUS - 1, size + RADIUS - 1)  # beyond, all voxels around are outside
    taps = []
    for i in range(1 - RADIUS, RADIUS + 1):
        index, x = first + i, p - low - i
        weight = torch.sinc(x) * torch.sinc(x / RADIUS)
        weight = torch.where(p == low, 0.0 if i else 1.0, weight)
        if padding == "zeros":
            weight = torch.where((index >= 0) & (index < size), weight, 0)
        taps.append((_folded(index.long(), size, padding), weight))
    return taps


def _folded(index: Tensor, size: int, padding: str) -> Tensor:
    """The voxel of the image that stands for one outside."""
    if padding == "reflection" and size > 1:
        index = index.remainder(2 * size - 2)
        index = torch.minimum(index, 2 * size - 2 - index)
    return index.clamp(0, size - 1)
