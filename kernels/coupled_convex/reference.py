"""Coupled convex optimisation of a cost volume: the definition.

Heinrich et al., "Non-parametric discrete registration with convex optimisation", WBIR 2014; as in ConvexAdam
(Siebert et al. 2021). From the displacement of least cost at every control point, smoothed by a box average
of width 3 with zeros outside, alternate for each coefficient a

    d(x) = argmin over e of cost(e, x) + a * |e - s(x)|^2,     s = box average of d.

Displacements are in steps of the search grid, (i - radius) on each axis; ties go to the first in raster order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def coupled_convex(cost: Tensor, coefficients: list[float]) -> Tensor:
    """cost (N, *search, *spatial) -> smoothed displacement field (N, ndim, *spatial) in search steps."""
    ndim = (cost.ndim - 1) // 2
    batch, search, spatial = cost.shape[0], cost.shape[1 : 1 + ndim], cost.shape[1 + ndim :]
    axes = [torch.arange(s, dtype=cost.dtype, device=cost.device) - (s - 1) // 2 for s in search]
    steps = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # (ndim, E)
    flat = cost.reshape(batch, -1, *spatial)
    average = F.avg_pool3d if ndim == 3 else F.avg_pool2d

    def smoothed(total: Tensor) -> Tensor:
        least = steps[:, total.argmin(1)].movedim(0, 1)
        return average(F.pad(least, [1] * 2 * ndim), 3, stride=1)

    field = smoothed(flat)
    for a in coefficients:
        distance = torch.zeros_like(flat)
        for k in range(ndim):
            distance += (steps[k].view(1, -1, *[1] * ndim) - field[:, k : k + 1]) ** 2
        field = smoothed(flat + a * distance)
    return field
