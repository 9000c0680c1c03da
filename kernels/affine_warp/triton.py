"""Sampling at an affine map of the output voxels, in Triton."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..common import triton_samplers as samplers


def affine_warp(image: Tensor, matrix: Tensor, size: Sequence[int], mode: str, padding: str) -> Tensor:
    """image (N, C, *in), matrix (N, ndim, ndim + 1): output voxel -> image voxel -> (N, C, *size)."""
    return samplers.sample([image], matrix, size, "affine", [mode == "nearest"], padding)[0][0]


def affine_warp_backward(
    grad: Tensor, image: Tensor, matrix: Tensor, mode: str, padding: str, to_image: bool, to_matrix: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to image, in the dtype of the arithmetic, and to matrix, in its own; empty where not asked for."""
    by_image, by_matrix = samplers.sample_backward(grad, image, matrix, "affine", mode, padding, to_image, to_matrix)
    return by_image, by_matrix.to(matrix.dtype)
