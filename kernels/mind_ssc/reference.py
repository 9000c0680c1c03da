"""MIND with a self-similarity context: the definition.

Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using
self-similarities", MICCAI 2013. For every pair (a, b) of the six (2-D: four) nearest neighbours, `dilation`
voxels away, that are not opposite each other,

    ssd_ab(x) = sum over the (2 radius + 1)^ndim patch around x of (I(y + a) - I(y + b))^2
    mind_ab(x) = exp(-(ssd_ab(x) - min_ab ssd(x)) / v(x)),   v = mean_ab(ssd - min ssd),

v clamped to [1/1000, 1000] times its mean over the image. Both the image and the patch sums repeat the border.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Offset = tuple[int, ...]

# The channel order is that of the public C++ and PyTorch implementations.
_PAIRS_3D: list[tuple[Offset, Offset]] = [
    ((1, 0, 0), (0, -1, 0)),
    ((0, 1, 0), (-1, 0, 0)),
    ((0, -1, 0), (-1, 0, 0)),
    ((0, 1, 0), (1, 0, 0)),
    ((0, -1, 0), (0, 0, -1)),
    ((0, 1, 0), (0, 0, 1)),
    ((0, 0, -1), (-1, 0, 0)),
    ((1, 0, 0), (0, 0, 1)),
    ((0, 1, 0), (0, 0, -1)),
    ((0, 0, 1), (0, -1, 0)),
    ((1, 0, 0), (0, 0, -1)),
    ((0, 0, 1), (-1, 0, 0)),
]
_PAIRS_2D: list[tuple[Offset, Offset]] = [
    ((-1, 0), (0, -1)),
    ((0, 1), (-1, 0)),
    ((1, 0), (0, -1)),
    ((1, 0), (0, 1)),
]


def _shifted(image: Tensor, offset: Offset, dilation: int) -> Tensor:
    """image (N, 1, *spatial) at x + offset * dilation, the border repeated."""
    for axis, step in enumerate(offset, start=2):
        size = image.shape[axis]
        index = (torch.arange(size, device=image.device) + step * dilation).clamp(0, size - 1)
        image = image.index_select(axis, index)
    return image


def mind_ssc(image: Tensor, radius: int, dilation: int, pool: int) -> Tensor:
    """image (N, 1, *spatial) -> (N, 12 or 4, *spatial // pool)."""
    ndim = image.ndim - 2
    pairs = _PAIRS_3D if ndim == 3 else _PAIRS_2D
    difference = torch.cat([_shifted(image, a, dilation) - _shifted(image, b, dilation) for a, b in pairs], 1)
    ssd = F.pad(difference**2, [radius] * 2 * ndim, mode="replicate")
    for axis in range(2, 2 + ndim):
        ssd = ssd.unfold(axis, 2 * radius + 1, 1).sum(-1)
    ssd = ssd - ssd.amin(1, keepdim=True)
    variance = ssd.mean(1, keepdim=True)
    mean = variance.mean(dim=tuple(range(1, 2 + ndim)), keepdim=True)
    variance = variance.clamp(mean * 1e-3, mean * 1e3)
    mind = torch.exp(-ssd / variance.clamp(min=torch.finfo(image.dtype).tiny))
    return (F.avg_pool3d if ndim == 3 else F.avg_pool2d)(mind, pool)
