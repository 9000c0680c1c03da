"""Sums that float32 cannot hold, in Triton: of float64 numbers, or where GPUs are slow at these, of pairs of float32.

A number is (high, low), their sum: float64 and None, or float32 both, which hold some 48 bits (Dekker, 1971). What an
addition or a product rounds off is found exactly, by Knuth's TwoSum and by fma. In memory a pair is one int64: as many
bytes as float64. Numbers beyond the range of float32 become NaN in pairs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def dtype_of(pairs: bool) -> torch.dtype:
    """Of tensors of such numbers."""
    return torch.int64 if pairs else torch.float64


def factor_of(pairs: bool) -> torch.dtype:
    """Of the real numbers that they are made of, or multiplied by."""
    return torch.float32 if pairs else torch.float64


@triton.jit
def number(x, PAIRS: tl.constexpr):
    """Of a real number, which in pairs has no more digits than float32."""
    if PAIRS:
        high = x.to(tl.float32)
        return high, tl.zeros_like(high)
    else:
        return x.to(tl.float64), None


@triton.jit
def two_sum(x, y):
    """-> the rounded sum, what was rounded off."""
    total = x + y
    of_y = total - x
    return total, (x - (total - of_y)) + (y - of_y)


@triton.jit
def two_product(x, y):
    """-> the rounded product, what was rounded off."""
    product = tl.fma(x, y, 0.0)  # one that no compiler joins to a sum that it goes into, which would not be rounded
    return product, tl.fma(x, y, -product)


@triton.jit
def add(x, y):
    """The sum; `low` grows by what is rounded off, and `store` takes it to `high`."""
    if x[1] is None:
        return x[0] + y[0], None
    else:
        high, lost = two_sum(x[0], y[0])
        return high, x[1] + (y[1] + lost)


@triton.jit
def times(x, factor):
    """The product with a real number."""
    if x[1] is None:
        return x[0] * factor, None
    else:
        high, lost = two_product(x[0], factor)
        return high, tl.fma(x[1], factor, lost)


@triton.jit
def wide(x):
    """As float64."""
    if x[1] is None:
        return x[0]
    else:
        return x[0].to(tl.float64) + x[1].to(tl.float64)


@triton.jit
def load(at, valid, PAIRS: tl.constexpr):
    """Numbers in memory, or real numbers, 0 where not valid."""
    x = tl.load(at, mask=valid, other=0)
    if PAIRS and x.dtype == tl.int64:
        high = (x >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        return high, x.to(tl.int32).to(tl.float32, bitcast=True)
    else:
        return number(x, PAIRS)


@triton.jit
def store(at, x, valid):
    """To memory; of a pair, `low` is no more than what `high` rounds off."""
    if x[1] is None:
        tl.store(at, x[0], mask=valid)
    else:
        high = x[0] + x[1]
        low = x[1] - (high - x[0])
        bits = high.to(tl.int32, bitcast=True).to(tl.int64) << 32
        tl.store(at, bits | low.to(tl.uint32, bitcast=True).to(tl.int64), mask=valid)
