"""Few numbers as a tensor, for kernels and formulas that take them from memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def numbers(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(len(values),) beside a tensor, of its dtype unless told.

    A GPU gets them as arguments of a kernel, of many at once: a copy from the host would make it wait, and cannot be
    recorded in a CUDA graph.
    """
    options: dict[str, Any] = {"dtype": dtype or like.dtype, "device": like.device}
    if like.device.type == "cpu":
        return torch.tensor(list(values), **options)
    if len(set(values)) < 2:
        return torch.full((len(values),), next(iter(values), 0.0), **options)
    result = torch.zeros(len(values), **options)
    torch._foreach_add_(result.unbind(), list(values))
    return result
