"""`torch.nn.functional.grid_sample`, with PyTorch's own answer to every argument."""

from __future__ import annotations

import warnings

import torch.nn.functional as F
from torch import Tensor

from .. import transforms
from .patching import FallThrough, Library

LIBRARY = Library("torch", ">=2.11,<2.14")


@LIBRARY.replaces(F, "grid_sample")
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor | FallThrough:
    """As `torch.nn.functional.grid_sample`. Bicubic sampling is PyTorch's own, and so are inputs that it refuses."""
    if mode not in ("bilinear", "nearest"):
        return FallThrough(f"mode {mode!r}")
    if padding_mode not in transforms.PADDINGS:
        return FallThrough(f"padding_mode {padding_mode!r}")
    ndim = input.ndim - 2
    fits = ndim in (2, 3) and grid.ndim == input.ndim and grid.shape[-1] == ndim and grid.shape[0] == input.shape[0]
    if not fits or input.numel() == 0 or grid.numel() == 0:
        return FallThrough("shapes that we do not take")
    if input.dtype != grid.dtype or not input.is_floating_point() or input.device != grid.device:
        return FallThrough("dtypes or devices that we do not take")
    if align_corners is None:
        warnings.warn(  # as PyTorch does
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please "
            "specify align_corners=True if the old behavior is desired. See the documentation of grid_sample for "
            "details.",
            stacklevel=3,
        )
    return transforms.grid_sample(input, grid, mode, padding_mode, align_corners)


__all__ = ["grid_sample"]
