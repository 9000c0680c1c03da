"""A separable filter that is the same in both directions and along every axis: the definition.

    out(x) = sum over t of half[|t|] * in(x + t e),   along one axis after the other, zeros outside.

It is its own adjoint.
"""

from __future__ import annotations

import torch
from torch import Tensor


def symmetric_filter(image: Tensor, half: list[float]) -> Tensor:
    """image (N, C, *spatial), half the kernel from its middle on -> the same shape."""
    for axis in range(2, image.ndim):
        size = image.shape[axis]
        result = half[0] * image
        for t in range(1, min(len(half), size)):
            inner = size - t
            result.narrow(axis, t, inner).add_(image.narrow(axis, 0, inner) * half[t])
            result.narrow(axis, 0, inner).add_(image.narrow(axis, t, inner) * half[t])
        image = result
    return image.contiguous(memory_format=torch.contiguous_format)
