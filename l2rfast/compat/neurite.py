"""neurite's local NCC, which VoxelMorph 0.3 uses."""

from __future__ import annotations

from collections.abc import Sequence

import neurite.nn.functional as functional
from torch import Tensor

from .. import lncc
from .patching import FallThrough, Library

LIBRARY = Library("neurite", ">=0.3.4,<0.4")


@LIBRARY.replaces(functional, "ncc")
def ncc(
    tensor1: Tensor,
    tensor2: Tensor,
    window_size: int | Sequence[int] = 9,
    eps: float = 1e-5,
    reduction: str | None = "mean",
    reduction_dim: int | tuple[int, ...] = (0, 1),
    keepdims: bool = True,
) -> Tensor | FallThrough:
    """As `neurite.nn.functional.ncc`. Even windows and an eps of 0 run neurite's code."""
    if tensor1.shape != tensor2.shape or tensor1.ndim not in (3, 4, 5) or tensor1.numel() == 0:
        return FallThrough("shapes that we do not take")
    if tensor1.dtype != tensor2.dtype or not tensor1.is_floating_point() or tensor1.device != tensor2.device:
        return FallThrough("dtypes or devices that we do not take")
    sides = [window_size] if isinstance(window_size, int) else list(window_size)
    if any(side < 1 or side % 2 == 0 for side in sides) or len(sides) not in (1, tensor1.ndim - 2) or not eps > 0:
        return FallThrough("an even window, or an eps that is not positive")
    window = sides * (tensor1.ndim - 2) if isinstance(window_size, int) else sides
    if reduction == "mean" and reduction_dim == (0, 1):
        mean = lncc.local_ncc(tensor1, tensor2, window=window, eps=eps)
        return mean.reshape(1, 1) if keepdims else mean
    every = lncc.local_ncc(tensor1, tensor2, window=window, eps=eps, reduction="none")
    scores = every.flatten(2).mean(2)
    if reduction is None:
        return scores
    result: Tensor = functional.reduce(scores, reduction, dim=reduction_dim, keepdims=keepdims)
    return result


__all__ = ["ncc"]
