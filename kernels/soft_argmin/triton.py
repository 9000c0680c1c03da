"""The expected displacement under a softmax of costs, in Triton: a program for a block of control points.

It goes over their costs twice, for the least and for the sums; back, a third time only for gradients to probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.sampling import arithmetic_dtype
from ..common.triton_launch import block_of, index_of, launch, real_of


@triton.jit
def points_of(points, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """-> item of the batch, points of the block, which of them exist."""
    blocks = tl.cdiv(points, BLOCK)
    program = tl.program_id(0).to(INDEX)
    x = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return program // blocks, x, x < points


@triton.jit
def step(e, search, dilation, axis: tl.constexpr, REAL: tl.constexpr):
    """How far a displacement of that flat index leads along an axis."""
    i = e % search[2]
    if axis == 1:
        i = e // search[2] % search[1]
    if axis == 0:
        i = e // (search[2] * search[1])
    return tl.load(dilation + axis).to(REAL) * (i.to(REAL) - (search[axis] - 1) * 0.5)


@triton.jit
def soft_argmin_kernel(
    cost, beta, dilation, displacement, entropy, log_z, probabilities, search, displacements, axes, points,
    REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n, x, valid = points_of(points, INDEX, BLOCK)
    first = cost + n * displacements * points + x
    factor = tl.load(beta).to(REAL)
    least = tl.full((BLOCK,), float("inf"), REAL)
    for e in range(displacements):
        least = tl.minimum(least, factor * tl.load(first + e * points, mask=valid, other=0).to(REAL))
    total = tl.zeros((BLOCK,), REAL)
    mean = tl.zeros((BLOCK,), REAL)
    sum_z = tl.zeros((BLOCK,), REAL)
    sum_y = tl.zeros((BLOCK,), REAL)
    sum_x = tl.zeros((BLOCK,), REAL)
    for e in range(displacements):
        above = factor * tl.load(first + e * points, mask=valid, other=0).to(REAL) - least
        p = tl.exp(-above)
        total += p
        mean += tl.where(p == 0, 0, p * above)
        index = tl.full((1,), e, tl.int32)
        sum_z += p * step(index, search, dilation, 0, REAL)
        sum_y += p * step(index, search, dilation, 1, REAL)
        sum_x += p * step(index, search, dilation, 2, REAL)
    to = displacement + n * axes * points + x
    if axes == 3:
        tl.store(to, sum_z / total, mask=valid)
    tl.store(to + (axes - 2) * points, sum_y / total, mask=valid)
    tl.store(to + (axes - 1) * points, sum_x / total, mask=valid)
    tl.store(entropy + n * points + x, tl.log(total) + mean / total, mask=valid)
    tl.store(log_z + n * points + x, tl.log(total) - least, mask=valid)
    if probabilities is not None:
        for e in range(displacements):
            above = factor * tl.load(first + e * points, mask=valid, other=0).to(REAL) - least
            tl.store(probabilities + (n * displacements + e) * points + x, tl.exp(-above) / total, mask=valid)


@triton.jit
def load_p(cost, e, factor, shift, points, valid, REAL: tl.constexpr):
    """-> the cost, log p and p of a displacement."""
    c = tl.load(cost + e * points, mask=valid, other=0).to(REAL)
    log_p = -factor * c - shift
    return c, log_p, tl.exp(log_p)


@triton.jit
def backward_kernel(
    grad, grad_entropy, grad_p, cost, beta, dilation, displacement, entropy, log_z, result, to_beta,
    search, displacements, axes, points,
    REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n, x, valid = points_of(points, INDEX, BLOCK)
    start = n * displacements * points + x
    own = n * points + x
    factor = tl.load(beta).to(REAL)
    shift = tl.load(log_z + own, mask=valid, other=0).to(REAL)
    to_entropy = tl.load(grad_entropy + own, mask=valid, other=0).to(REAL)
    by_axis = grad + n * axes * points + x
    g_z = tl.zeros((BLOCK,), REAL)
    mean = to_entropy * tl.load(entropy + own, mask=valid, other=0).to(REAL)
    at = displacement + n * axes * points + x
    if axes == 3:
        g_z = tl.load(by_axis, mask=valid, other=0).to(REAL)
        mean += g_z * tl.load(at, mask=valid, other=0).to(REAL)
    g_y = tl.load(by_axis + (axes - 2) * points, mask=valid, other=0).to(REAL)
    g_x = tl.load(by_axis + (axes - 1) * points, mask=valid, other=0).to(REAL)
    mean += g_y * tl.load(at + (axes - 2) * points, mask=valid, other=0).to(REAL)
    mean += g_x * tl.load(at + (axes - 1) * points, mask=valid, other=0).to(REAL)
    if grad_p is not None:
        for e in range(displacements):
            c, log_p, p = load_p(cost + start, e, factor, shift, points, valid, REAL)
            mean += p * tl.load(grad_p + start + e * points, mask=valid, other=0).to(REAL)
    total = tl.zeros((BLOCK,), REAL)
    for e in range(displacements):
        c, log_p, p = load_p(cost + start, e, factor, shift, points, valid, REAL)
        index = tl.full((1,), e, tl.int32)
        h = g_z * step(index, search, dilation, 0, REAL) + g_y * step(index, search, dilation, 1, REAL) - mean
        h += g_x * step(index, search, dilation, 2, REAL)
        if grad_p is not None:
            h += tl.load(grad_p + start + e * points, mask=valid, other=0).to(REAL)
        share = tl.where(p == 0, 0, p * (h - to_entropy * log_p))
        tl.store(result + start + e * points, -factor * share, mask=valid)
        total -= tl.where(p == 0, 0, share * c)
    tl.store(to_beta + own, total, mask=valid)


def _search(cost: Tensor, dilation: Sequence[float]) -> tuple[Tensor, tuple[int, ...], int, int, int]:
    """-> dilation (3,), search sizes of a volume, number of displacements, of axes, of control points."""
    ndim = len(dilation)
    search = cost.shape[1 : 1 + ndim]
    steps = torch.tensor([0.0] * (3 - ndim) + list(dilation), dtype=torch.float64).to(cost.device)
    return steps, (*[1] * (3 - ndim), *search), prod(search), ndim, prod(cost.shape[1 + ndim :])


def _run(kernel: Any, cost: Tensor, arguments: tuple[Any, ...], points: int) -> None:
    block = block_of(arithmetic_dtype(cost))
    programs = cost.shape[0] * triton.cdiv(points, block)
    launch(kernel, programs, arguments, REAL=real_of(cost.dtype), INDEX=index_of(cost), BLOCK=block)


def soft_argmin(
    cost: Tensor, beta: Tensor, dilation: Sequence[float], probabilities: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cost = cost.contiguous()
    steps, search, displacements, ndim, points = _search(cost, dilation)
    spatial, dtype = cost.shape[1 + ndim :], arithmetic_dtype(cost)
    displacement, entropy, log_z = (cost.new_empty((cost.shape[0], k, *spatial), dtype=dtype) for k in (ndim, 1, 1))
    p = cost.new_empty(cost.shape if probabilities else (0,))
    outputs = displacement, entropy, log_z, p if probabilities else None
    _run(soft_argmin_kernel, cost, (cost, beta, steps, *outputs, search, displacements, ndim, points), points)
    return displacement, entropy, log_z, p


def soft_argmin_backward(
    grad: Tensor, grad_entropy: Tensor, grad_p: Tensor | None, cost: Tensor, beta: Tensor, displacement: Tensor,
    entropy: Tensor, log_z: Tensor, dilation: Sequence[float],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    cost = cost.contiguous()
    steps, search, displacements, ndim, points = _search(cost, dilation)
    result = torch.empty_like(cost, dtype=arithmetic_dtype(cost))
    to_beta = torch.empty_like(log_z)
    inputs = grad.contiguous(), grad_entropy.contiguous(), None if grad_p is None else grad_p.contiguous()
    arguments = (
        *inputs, cost, beta, steps, displacement, entropy, log_z, result, to_beta,
        search, displacements, ndim, points,
    )  # fmt: skip
    _run(backward_kernel, cost, arguments, points)
    return result, to_beta.sum()
