"""Min-convolution of a cost volume in Triton: one axis of the search after the other, a line for every result.

A program takes a block of results; neighbours in it are control points, so that the costs it goes over are contiguous.
On a GPU the lines of a block come from its caches after the first result.
"""

from __future__ import annotations

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.triton_launch import block_of, index_of, launch, real_of
from . import reference


@triton.jit
def least_kernel(
    cost, weight, result, where, size, longer, inner, count,
    REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(outer, size, inner) -> (outer, longer, inner): the least cost and penalty, and where it is.

    Without a weight, of the neighbours of positions -2 ... size + 1.
    """
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    d = i // inner % longer
    line = i // (inner * longer) * size * inner + i % inner
    best = tl.full((BLOCK,), float("inf"), REAL)
    found = tl.zeros((BLOCK,), tl.int32)
    if weight is None:
        first = tl.minimum(tl.maximum(d - 3, 0), size - 1).to(tl.int32)
        last = tl.minimum(tl.maximum(d - 1, 0), size - 1).to(tl.int32)
        best = tl.load(cost + line + first * inner, mask=valid, other=0).to(REAL)
        found = first
        for step in range(1, 3):
            e = first + step
            value = tl.load(cost + line + e * inner, mask=valid & (e <= last), other=float("inf")).to(REAL)
            found = tl.where(value < best, e, found)
            best = tl.minimum(value, best)
    else:
        factor = tl.load(weight).to(REAL)
        for e in range(size):
            steps = (d - e).to(REAL)
            value = tl.load(cost + line + e * inner, mask=valid, other=0).to(REAL) + factor * (steps * steps)
            found = tl.where(value < best, e, found)
            best = tl.minimum(value, best)
    tl.store(result + i, best, mask=valid)
    tl.store(where + i, found, mask=valid)


@triton.jit
def returned_kernel(
    grad, where, result, size, longer, inner, count, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr
):
    """(outer, longer, inner) -> (outer, size, inner): to every cost, what its minima received."""
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    e = i // inner % size
    line = i // (inner * size) * longer * inner + i % inner
    total = tl.zeros((BLOCK,), REAL)
    for d in range(longer):
        mine = valid & (tl.load(where + line + d * inner, mask=valid, other=-1) == e)
        total += tl.load(grad + line + d * inner, mask=mine, other=0).to(REAL)
    tl.store(result + i, total, mask=valid)


def _least(cost: Tensor, axis: int, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    cost = cost.contiguous()
    size, block = cost.shape[axis], block_of(cost.dtype)
    longer = size if weight is not None else size + 4
    shape = (*cost.shape[:axis], longer, *cost.shape[axis + 1 :])
    result, where = cost.new_empty(shape), cost.new_empty(shape, dtype=torch.int32)
    arguments = (cost, weight, result, where, size, longer, prod(cost.shape[axis + 1 :]), result.numel())
    programs = triton.cdiv(result.numel(), block)
    launch(least_kernel, programs, arguments, REAL=real_of(cost.dtype), INDEX=index_of(cost, result), BLOCK=block)
    return result, where


def _returned(grad: Tensor, where: Tensor, axis: int, size: int) -> Tensor:
    grad = grad.contiguous()
    block = block_of(grad.dtype)
    result = grad.new_empty((*grad.shape[:axis], size, *grad.shape[axis + 1 :]))
    arguments = (grad, where, result, size, grad.shape[axis], prod(grad.shape[axis + 1 :]), result.numel())
    programs = triton.cdiv(result.numel(), block)
    launch(returned_kernel, programs, arguments, REAL=real_of(grad.dtype), INDEX=index_of(grad, result), BLOCK=block)
    return result


_STEPS = reference.Steps(_least, _returned)


def min_convolution(cost: Tensor, weight: Tensor) -> Tensor:
    return reference.exact(cost, weight, _STEPS)


def min_convolution_backward(grad: Tensor, cost: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return reference.exact_backward(grad, cost, weight, _STEPS)


def pooled_min_convolution(cost: Tensor) -> Tensor:
    return reference.pooled(cost, _STEPS)


def pooled_min_convolution_backward(grad: Tensor, cost: Tensor) -> Tensor:
    return reference.pooled_backward(grad, cost, _STEPS)
