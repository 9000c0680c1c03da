"""Normalised gradient fields in Triton: the distance and its gradient in one launch.

A program takes a block of voxels; at each it gathers the gradient from the flows at the six neighbours, which it
computes again from values that the caches hold.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2rfast.kernels.common.triton_launch import block_of, index_of, launch, real_of


@triton.jit
def _slope(image, z, y, x, d, h, w, AXIS: tl.constexpr, valid, REAL: tl.constexpr):
    """Along one axis, the border repeated."""
    dz: tl.constexpr = AXIS == 0
    dy: tl.constexpr = AXIS == 1
    dx: tl.constexpr = AXIS == 2
    before = (tl.maximum(z - dz, 0) * h + tl.maximum(y - dy, 0)) * w + tl.maximum(x - dx, 0)
    after = (tl.minimum(z + dz, d - 1) * h + tl.minimum(y + dy, h - 1)) * w + tl.minimum(x + dx, w - 1)
    high, low = tl.load(image + after, mask=valid, other=0), tl.load(image + before, mask=valid, other=0)
    return (high.to(REAL) - low.to(REAL)) * 0.5


@triton.jit
def _flow(fixed, moving, z, y, x, d, h, w, edge2, valid, REAL: tl.constexpr):
    """Its three parts, and the distance 1 - p q."""
    az, bz = _slope(fixed, z, y, x, d, h, w, 0, valid, REAL), _slope(moving, z, y, x, d, h, w, 0, valid, REAL)
    ay, by = _slope(fixed, z, y, x, d, h, w, 1, valid, REAL), _slope(moving, z, y, x, d, h, w, 1, valid, REAL)
    ax, bx = _slope(fixed, z, y, x, d, h, w, 2, valid, REAL), _slope(moving, z, y, x, d, h, w, 2, valid, REAL)
    product = az * bz + ay * by + ax * bx
    a, b = az * az + ay * ay + ax * ax + edge2, bz * bz + by * by + bx * bx + edge2
    p, q = product / a, product / b
    s = p / b
    return s * (az - q * bz), s * (ay - q * by), s * (ax - q * bx), 1 - p * q


@triton.jit
def ngf_kernel(
    fixed, moving, gradient, sums, edge, d, h, w, voxels, blocks, scale,
    REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    item, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    i = block.to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = i < voxels
    z, y, x = i // (h * w), i // w % h, i % w
    first = item.to(INDEX) * voxels
    fixed, moving = fixed + first, moving + first
    edge2 = tl.load(edge)
    own_z, own_y, own_x, distance = _flow(fixed, moving, z, y, x, d, h, w, edge2, valid, REAL)
    total = tl.zeros((BLOCK,), REAL)
    for step in tl.static_range(-1, 2, 2):
        # Beyond the border the own flow, its sign turned, is that of the neighbour.
        at_z, at_y, at_x = z + step, y + step, x + step
        in_z, in_y, in_x = (at_z >= 0) & (at_z < d), (at_y >= 0) & (at_y < h), (at_x >= 0) & (at_x < w)
        flow_z, _, _, _ = _flow(fixed, moving, at_z, y, x, d, h, w, edge2, valid & in_z, REAL)
        _, flow_y, _, _ = _flow(fixed, moving, z, at_y, x, d, h, w, edge2, valid & in_y, REAL)
        _, _, flow_x, _ = _flow(fixed, moving, z, y, at_x, d, h, w, edge2, valid & in_x, REAL)
        total -= step * tl.where(in_z, flow_z, -own_z)
        total -= step * tl.where(in_y, flow_y, -own_y)
        total -= step * tl.where(in_x, flow_x, -own_x)
    tl.store(gradient + first + i, tl.load(scale) * total, mask=valid)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(valid, distance, 0).to(tl.float64)))


def ngf(fixed: Tensor, moving: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    fixed, moving = fixed.contiguous(), moving.contiguous()
    d, h, w = [1] * (5 - fixed.ndim) + list(fixed.shape[2:])
    voxels, block = d * h * w, block_of(fixed.dtype)
    items, blocks = fixed.shape[0] * fixed.shape[1], triton.cdiv(voxels, block)
    gradient = torch.empty_like(moving)
    sums = fixed.new_empty((*fixed.shape[:2], blocks), dtype=torch.float64)
    # As tensors: a Python float would arrive as float32.
    edge2, scale = fixed.new_full((1,), edge**2), fixed.new_full((1,), -1 / voxels)
    launch(
        ngf_kernel,
        items * blocks,
        (fixed, moving, gradient, sums, edge2, d, h, w, voxels, blocks, scale),
        REAL=real_of(fixed.dtype),
        INDEX=index_of(fixed, moving),
        BLOCK=block,
    )
    return (sums.sum(2) / voxels).to(fixed.dtype), gradient
