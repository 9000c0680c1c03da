"""Sampling at a normalised grid, in Triton."""

from __future__ import annotations

from torch import Tensor

from ..common import triton_samplers as samplers


def _source(align_corners: bool) -> str:
    return "grid_corners" if align_corners else "grid"


def grid_sample(image: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool) -> Tensor:
    """image (N, C, *in), grid (N, *out, ndim) -> (N, C, *out)."""
    source, where = _source(align_corners), grid.movedim(-1, 1)
    return samplers.sample([image], where, grid.shape[1:-1], source, [mode == "nearest"], padding)[0][0]


def grid_sample_backward(
    grad: Tensor,
    image: Tensor,
    grid: Tensor,
    mode: str,
    padding: str,
    align_corners: bool,
    to_image: bool,
    to_grid: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients to image, in the dtype of the arithmetic, and to grid, in its own; empty where not asked for."""
    source, where = _source(align_corners), grid.movedim(-1, 1)
    by_image, by_grid = samplers.sample_backward(grad, image, where, source, mode, padding, to_image, to_grid)
    return by_image, by_grid.movedim(1, -1).contiguous() if to_grid else by_grid
