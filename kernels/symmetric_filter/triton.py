"""A separable symmetric filter in Triton: one axis after the other, tap by tap."""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from ..common.constants import numbers
from ..common.triton_launch import block_of, index_of, launch, real_of


@triton.jit
def filter_kernel(
    values, half, result, size, inner, taps, count, REAL: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr
):
    """(outer, size, inner), half the kernel (taps,) -> the same shape; zeros outside."""
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    valid = i < count
    at = i // inner % size
    total = tl.load(values + i, mask=valid, other=0).to(REAL) * tl.load(half).to(REAL)
    for t in range(1, taps):
        low = tl.load(values + i - t * inner, mask=valid & (at >= t), other=0).to(REAL)
        high = tl.load(values + i + t * inner, mask=valid & (at + t < size), other=0).to(REAL)
        total += (low + high) * tl.load(half + t).to(REAL)
    tl.store(result + i, total, mask=valid)


def symmetric_filter(image: Tensor, half: list[float]) -> Tensor:
    image, weights = image.contiguous(), numbers(half, image)
    for axis in range(2, image.ndim):
        result = image.new_empty(image.shape)
        block = block_of(image.dtype)
        arguments = (
            image, weights, result, image.shape[axis], prod(image.shape[axis + 1 :]), len(half), result.numel(),
        )  # fmt: skip
        launch(
            filter_kernel,
            triton.cdiv(result.numel(), block),
            arguments,
            REAL=real_of(image.dtype),
            INDEX=index_of(image, result),
            BLOCK=block,
        )
        image = result
    return image
