"""Labels by votes, in Triton."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import triton_sampling as sampling
from ..common.triton_launch import block_of, index_of, launch, real_of, strided, strides


@triton.jit
def vote_kernel(
    labels,
    label_strides,
    channels,
    image_size,
    batch,
    where,
    where_strides,
    out,
    out_size,
    count,
    blocks,
    SOURCE: tl.constexpr,
    PADDING: tl.constexpr,
    REAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The label with the most votes at every sample, of `batch` items to one of `where`."""
    ndim: tl.constexpr = len(image_size)
    corners: tl.constexpr = 2**ndim
    n, voxel, valid, at = sampling.block_of_program(blocks, out_size, count, INDEX, BLOCK)
    position, finite = sampling.positions(where, where_strides, n, at, valid, image_size, SOURCE, REAL)
    base, taps = sampling.linear_corners(position, image_size, PADDING, INDEX)
    weight = sampling.weights(taps, 0)
    outside = tl.zeros((BLOCK,), REAL)
    if PADDING == "zeros":
        inside = taps[0][0] + taps[0][1]
        for k in tl.static_range(1, ndim):
            inside *= taps[k][0] + taps[k][1]
        outside = 1 - inside
    first = sampling.offset(base, label_strides)
    for plane in range(batch * channels):
        source = labels + sampling.plane_offset(n, plane, channels, label_strides, INDEX) + first
        around = ()
        for i in tl.static_range(corners):
            around = around + (tl.load(sampling.corner(source, label_strides, i, ndim), mask=finite, other=0),)  # noqa: RUF005
        best = tl.load(source, mask=finite, other=0)
        most = tl.zeros((BLOCK,), REAL)
        for i in tl.static_range(corners):
            # With those of its label that come after it: the first of a label has its whole sum.
            votes = weight[i]
            for j in tl.static_range(i + 1, corners):
                votes += tl.where(around[j] == around[i], weight[j], 0)
            if PADDING == "zeros":
                votes += tl.where(around[i] == 0, outside, 0)
            better = (votes > most) | ((votes == most) & (around[i] < best))
            best, most = tl.where(better, around[i], best), tl.where(better, votes, most)
        if PADDING == "zeros":
            best = tl.where((outside > most) | ((outside == most) & (best > 0)), 0, best)
        target = out + tl.cast(n * channels + plane, INDEX) * count + voxel
        tl.store(target, tl.where(finite, best, 0).to(out.dtype.element_ty), mask=valid)


def vote(labels: Tensor, disp: Tensor, padding: str) -> Tensor:
    """labels (N, C, *in) of integers or booleans, disp (N, ndim, *out) -> (N, C, *out) in the dtype of labels."""
    return _elected(labels, disp, disp.shape[2:], "displacement", padding)


def affine_vote(labels: Tensor, matrix: Tensor, size: Sequence[int], padding: str) -> Tensor:
    """labels (N, C, *in), matrix (N, ndim, ndim + 1): output voxel -> voxel of labels -> (N, C, *size)."""
    return _elected(labels, matrix, size, "affine", padding)


def _elected(labels: Tensor, where: Tensor, size: Sequence[int], source: str, padding: str) -> Tensor:
    n = max(labels.shape[0], where.shape[0])
    out = labels.new_empty((n, labels.shape[1], *size))
    # Triton has no order of booleans.
    given, written = (t.view(torch.uint8) if t.dtype == torch.bool else t for t in (labels, out))
    count = prod(size)
    blocks = triton.cdiv(count, block_of(where.dtype))
    launch(
        vote_kernel,
        where.shape[0] * blocks,
        (
            given,
            strides(given),
            labels.shape[1],
            tuple(labels.shape[2:]),
            n // where.shape[0],
            *strided(where),
            written,
            tuple(size),
            count,
            blocks,
        ),
        SOURCE=source,
        PADDING=padding,
        REAL=real_of(where.dtype),
        INDEX=index_of(where, labels, out),
        BLOCK=block_of(where.dtype),
    )
    return out
