"""Repeated box averages in Triton: a pass and axis after the other, every window summed anew."""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from ..common.triton_launch import block_of, index_of, launch, real_of


@triton.jit
def average_kernel(
    values, result, size, longer, first, radius, inner, count,
    REPEATED: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(outer, size, inner) -> (outer, longer, inner), of positions first, first + 1, ...; outside, the border or 0."""
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    centre = i // inner % longer + first
    line = i // (inner * longer) * size * inner + i % inner
    total = tl.zeros((BLOCK,), REAL)
    for step in range(2 * radius + 1):
        at = centre + step - radius
        inside = valid
        if REPEATED:
            at = tl.minimum(tl.maximum(at, 0), size - 1)
        else:
            inside = valid & (at >= 0) & (at < size)
        total += tl.load(values + line + at * inner, mask=inside, other=0).to(REAL)
    tl.store(result + i, total / (2 * radius + 1), mask=valid)


@triton.jit
def fold_kernel(
    values, result, size, reach, inner, count, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr
):
    """(outer, size + 2 reach, inner) -> (outer, size, inner): what lies outside goes to the border."""
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    at = i // inner % size
    line = i // (inner * size) * (size + 2 * reach) * inner + i % inner
    total = tl.load(values + line + (at + reach) * inner, mask=valid, other=0).to(REAL)
    for step in range(reach):
        low = valid & (at == 0)
        total += tl.load(values + line + step * inner, mask=low, other=0).to(REAL)
        high = valid & (at == size - 1)
        total += tl.load(values + line + (size + reach + step) * inner, mask=high, other=0).to(REAL)
    tl.store(result + i, total, mask=valid)


def _along(values: Tensor, axis: int, longer: int, first: int, radius: int, repeated: bool) -> Tensor:
    result = values.new_empty((*values.shape[:axis], longer, *values.shape[axis + 1 :]))
    block = block_of(values.dtype)
    arguments = (
        values, result, values.shape[axis], longer, first, radius, prod(values.shape[axis + 1 :]), result.numel(),
    )  # fmt: skip
    launch(
        average_kernel,
        triton.cdiv(result.numel(), block),
        arguments,
        REPEATED=repeated,
        REAL=real_of(values.dtype),
        INDEX=index_of(values, result),
        BLOCK=block,
    )
    return result


def _folded(grad: Tensor, axis: int, radius: int, passes: int) -> Tensor:
    """The adjoint of so many averages with the border repeated before them."""
    size, reach = grad.shape[axis], radius * passes
    wide = grad
    for i in range(passes):
        wide = _along(wide, axis, size + 2 * radius * (i + 1), -radius, radius, False)
    result = grad.new_empty(grad.shape)
    block = block_of(grad.dtype)
    launch(
        fold_kernel,
        triton.cdiv(result.numel(), block),
        (wide, result, size, reach, prod(grad.shape[axis + 1 :]), result.numel()),
        REAL=real_of(grad.dtype),
        INDEX=index_of(wide, result),
        BLOCK=block,
    )
    return result


def box_average(image: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    image = image.contiguous()
    for axis in range(2, image.ndim):
        size = image.shape[axis]
        for i in range(passes):
            if padding != "extended":
                image = _along(image, axis, size, 0, radius, padding == "border")
                continue
            # What is left of the room for the passes to come; the first makes it.
            room = radius * (passes - 1 - i)
            image = _along(image, axis, size + 2 * room, radius if i else -room, radius, i == 0)
    return image


def box_average_backward(grad: Tensor, radius: int, passes: int, padding: str) -> Tensor:
    if padding == "zeros":
        return box_average(grad, radius, passes, padding)
    grad = grad.contiguous()
    for axis in range(2, grad.ndim):
        if padding == "extended":
            grad = _folded(grad, axis, radius, passes)
        else:
            for _ in range(passes):
                grad = _folded(grad, axis, radius, 1)
    return grad
