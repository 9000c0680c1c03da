"""Coupled convex optimisation of a cost volume in Triton: a program finds the arg-min of a block of control points.

The averages between are PyTorch's: they are of a field, not of the costs.
"""

from __future__ import annotations

from math import prod

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..common.triton_launch import block_of, index_of, launch, real_of


@triton.jit
def least_kernel(
    cost, field, coefficient, result, search, displacements, axes, points,
    REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The displacement of least cost + coefficient * |e - field|^2; without a field, of least cost."""
    blocks = tl.cdiv(points, BLOCK)
    program = tl.program_id(0).to(INDEX)
    n = program // blocks
    x = program % blocks * BLOCK + tl.arange(0, BLOCK)
    valid = x < points
    own = n * axes * points + x
    s_z = tl.zeros((BLOCK,), REAL)
    s_y = tl.zeros((BLOCK,), REAL)
    s_x = tl.zeros((BLOCK,), REAL)
    a = tl.zeros((1,), REAL)
    if field is not None:
        a += tl.load(coefficient).to(REAL)
        if axes == 3:
            s_z = tl.load(field + own, mask=valid, other=0)
        s_y = tl.load(field + own + (axes - 2) * points, mask=valid, other=0)
        s_x = tl.load(field + own + (axes - 1) * points, mask=valid, other=0)
    best = tl.full((BLOCK,), float("inf"), REAL)
    found = tl.zeros((BLOCK,), tl.int32)
    for e in range(displacements):
        z = e // (search[1] * search[2]) - search[0] // 2 - s_z
        y = e // search[2] % search[1] - search[1] // 2 - s_y
        dx = e % search[2] - search[2] // 2 - s_x
        value = tl.load(cost + (n * displacements + e) * points + x, mask=valid, other=0).to(REAL)
        value += a * (z * z) + a * (y * y) + a * (dx * dx)
        found = tl.where(value < best, e, found)
        best = tl.minimum(value, best)
    if axes == 3:
        tl.store(result + own, (found // (search[1] * search[2]) - search[0] // 2).to(REAL), mask=valid)
    y = found // search[2] % search[1] - search[1] // 2
    tl.store(result + own + (axes - 2) * points, y.to(REAL), mask=valid)
    tl.store(result + own + (axes - 1) * points, (found % search[2] - search[2] // 2).to(REAL), mask=valid)


def coupled_convex(cost: Tensor, coefficients: list[float]) -> Tensor:
    cost = cost.contiguous()
    ndim = (cost.ndim - 1) // 2
    search, spatial = cost.shape[1 : 1 + ndim], cost.shape[1 + ndim :]
    average = F.avg_pool3d if ndim == 3 else F.avg_pool2d
    block = block_of(cost.dtype)
    sizes = (*[1] * (3 - ndim), *search), prod(search), ndim, prod(spatial)

    def smoothed(field: Tensor | None, coefficient: Tensor | None) -> Tensor:
        result = cost.new_empty((cost.shape[0], ndim, *spatial))
        launch(
            least_kernel,
            cost.shape[0] * triton.cdiv(prod(spatial), block),
            (cost, field, coefficient, result, *sizes),
            REAL=real_of(cost.dtype),
            INDEX=index_of(cost),
            BLOCK=block,
        )
        return average(F.pad(result, [1] * 2 * ndim), 3, stride=1)

    field = smoothed(None, None)
    for a in coefficients:
        field = smoothed(field, cost.new_full((1,), a))
    return field
