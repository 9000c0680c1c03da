"""Dense displacement correlation: the definition.

    cost(n, e, x) = sum over c of (fixed(n, c, x) - moving(n, c, x + e))^2

for every displacement e whose components are (i - radius) * dilation, i = 0 ... 2 radius. Outside, moving is
0 or its border voxel. `smoothing` box averages of width 3 over x, zeros outside, follow for each e: with 2 this
is the cost volume of ConvexAdam (Siebert et al., "Fast 3D registration with accurate optimisation and little
learning", 2021).
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


def correlation(fixed: Tensor, moving: Tensor, radius: int, dilation: int, padding: str, smoothing: int) -> Tensor:
    """fixed, moving (N, C, *spatial) -> (N, *search, *spatial), 2 radius + 1 along each search axis."""
    ndim, width = fixed.ndim - 2, 2 * radius + 1
    mode = "replicate" if padding == "border" else "constant"
    padded = F.pad(moving, [radius * dilation] * 2 * ndim, mode=mode)
    average = F.avg_pool3d if ndim == 3 else F.avg_pool2d
    costs = []
    for index in product(range(width), repeat=ndim):
        shifted = padded
        for axis, i in enumerate(index):
            shifted = shifted.narrow(2 + axis, i * dilation, fixed.shape[2 + axis])
        cost = ((fixed - shifted) ** 2).sum(1, keepdim=True)
        for _ in range(smoothing):
            cost = average(F.pad(cost, [1] * 2 * ndim), 3, stride=1)
        costs.append(cost)
    return torch.cat(costs, 1).reshape(fixed.shape[0], *[width] * ndim, *fixed.shape[2:])
