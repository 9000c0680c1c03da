"""Sampling at a normalised grid, with the meaning of torch.nn.functional.grid_sample: the definition.

Component j of the grid moves along spatial axis ndim - 1 - j; -1 and 1 are the centres of the outer voxels
(align_corners) or their outer edges.
"""

from __future__ import annotations

from torch import Tensor

from ..common import sampling
from ..common.constants import numbers


def _scales(image: Tensor, align_corners: bool) -> list[float]:
    """d position / d grid, per component of the grid."""
    return [(size - 1 if align_corners else size) / 2 for size in reversed(image.shape[2:])]


def _positions(image: Tensor, grid: Tensor, align_corners: bool) -> Tensor:
    scales = numbers(_scales(image, align_corners), grid, sampling.arithmetic_dtype(grid))
    return ((grid.to(scales.dtype) + 1) * scales - (0 if align_corners else 0.5)).flip(-1).movedim(-1, 1)


def grid_sample(image: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool) -> Tensor:
    """image (N, C, *in), grid (N, *out, ndim) -> (N, C, *out)."""
    return sampling.sample(image, _positions(image, grid, align_corners), mode, padding)


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
    positions = _positions(image, grid, align_corners)
    grad_image, by_position = sampling.sample_backward(grad, image, positions, mode, padding, to_image, to_grid)
    if not to_grid:
        return grad_image, by_position.to(grid.dtype)
    scales = numbers(_scales(image, align_corners), by_position)
    return grad_image, (by_position.movedim(1, -1).flip(-1) * scales).to(grid.dtype)
