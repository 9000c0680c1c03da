"""neurite's local NCC, which VoxelMorph 0.3 uses."""

from __future__ import annotations

from collections.abc import Sequence

import neurite.nn.functional as functional
import torch
from torch import Tensor

from .. import lncc
from .patching import FallThrough, Library

LIBRARY = Library("neurite", ">=0.3,<0.4")


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
    window = [window_size] * (tensor1.ndim - 2) if isinstance(window_size, int) else list(window_size)
    if any(side < 1 or side % 2 == 0 for side in window) or len(window) != tensor1.ndim - 2 or not eps > 0:
        return FallThrough("an even window, or an eps that is not positive")
    if reduction == "mean" and reduction_dim == (0, 1):
        mean = lncc.local_ncc(tensor1, tensor2, window=window, eps=eps)
        scores = mean.reshape(1, 1) if keepdims else mean
    else:
        every = lncc.local_ncc(tensor1, tensor2, window=window, eps=eps, reduction="none")
        scores = every.flatten(2).mean(2)
        if reduction is not None:
            scores = functional.reduce(scores, reduction, dim=reduction_dim, keepdims=keepdims)
    # neurite refuses such images itself. A compiled program may ask nothing of values.
    if not torch.compiler.is_compiling() and not bool(scores.detach().isfinite().all()):
        return FallThrough("images that are not finite")
    return scores


__all__ = ["ncc"]
