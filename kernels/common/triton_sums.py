"""Sums that many Triton programs add to: in any order, or in fixed point for the same bits every time.

By default additions are atomic, in float32 or float64; their order, and with it the last bits, differ between runs.
Under ``torch.use_deterministic_algorithms(True)`` they are made in int64, where the order does not matter, in units of
a power of two chosen such that no sum overflows:

- precision: a contribution is cut off 60 - log2(n) bits below the largest finite |gradient|, n the number of samples
  that might all fall on one voxel; for n = 160 * 192 * 224 that is 2e-12 of the largest;
- memory: 8 bytes per voxel and channel of the gradient, and for a moment a copy of the incoming gradient;
- time: a pass over the incoming gradient for its largest value, and one over the sums to convert them.

A voxel that gets a contribution that is not finite becomes NaN; the others are as if there were none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import BLOCK, launch, real_of

# Finite sums stay below 2^60. One that was raised to POISON stays above 2^62 whatever finite is added before or after,
# and below 2^63.
POISON = tl.constexpr(3 << 61)
LIMIT = tl.constexpr(1 << 62)


@triton.jit
def add(pointer, value, valid, scale):
    """Add to sums in memory; in fixed point where there is a scale."""
    if scale is None:
        tl.atomic_add(pointer, value, mask=valid, sem="relaxed")
    else:
        finite = tl.abs(value) < float("inf")
        fixed = (tl.where(finite, value, 0).to(tl.float64) * scale).to(tl.int64)
        tl.atomic_add(pointer, fixed, mask=valid & finite, sem="relaxed")
        tl.atomic_max(pointer, tl.full(value.shape, POISON, tl.int64), mask=valid & (finite == 0), sem="relaxed")


@triton.jit
def from_fixed_kernel(sums, scale, result, count, REAL: tl.constexpr, BLOCK: tl.constexpr):
    """sums / scale -> result, of `count` numbers."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    fixed = tl.load(sums + at, mask=at < count, other=0)
    value = (fixed.to(tl.float64) / tl.load(scale)).to(REAL)
    tl.store(result + at, tl.where(fixed < LIMIT, value, float("nan")), mask=at < count)


class Sums:
    """A tensor of sums to be added to by `add`, each of at most `count` numbers.

    Attributes:
        tensor: what the kernels add to.
        scale: one float64 number on the device, None where sums are in floating point.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, count: int, factors: Sequence[Tensor]) -> None:
        """The numbers are at most the product of the largest |factors|."""
        self._dtype = dtype
        self.scale = _scale(count, factors) if torch.are_deterministic_algorithms_enabled() else None
        self.tensor = torch.zeros(
            tuple(shape), dtype=dtype if self.scale is None else torch.int64, device=factors[0].device
        )

    def result(self) -> Tensor:
        """The sums in floating point."""
        if self.scale is None:
            return self.tensor
        result = torch.empty_like(self.tensor, dtype=self._dtype)
        count = result.numel()
        launch(
            from_fixed_kernel,
            triton.cdiv(count, BLOCK),
            (self.tensor, self.scale, result, count),
            REAL=real_of(self._dtype),
            BLOCK=BLOCK,
        )
        return result


def _scale(count: int, factors: Sequence[Tensor]) -> Tensor:
    """The power of two that brings sums of `count` numbers below 2^60. On the device: nothing waits for it."""
    bits = torch.full((), 60 - (count - 1).bit_length(), dtype=torch.float64, device=factors[0].device)
    for factor in factors:
        largest = factor.abs().nan_to_num_(0.0, posinf=0.0, neginf=0.0).amax().double()
        bits -= torch.frexp(largest).exponent
    return torch.exp2(bits.clamp(max=1000))
