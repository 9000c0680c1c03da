"""Sampling at an affine map of the output voxels: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common import sampling


def affine_warp(image: Tensor, matrix: Tensor, size: Sequence[int], mode: str, padding: str) -> Tensor:
    """image (N, C, *in), matrix (N, ndim, ndim + 1): output voxel -> image voxel -> (N, C, *size)."""
    return sampling.sample(image, sampling.transformed(matrix, sampling.coordinates(list(size), matrix)), mode, padding)


def affine_resample(
    image: Tensor,
    matrix: Tensor,
    disp: Tensor | None,
    size: Sequence[int],
    mode: str,
    padding: str,
    outside: Tensor | None,
) -> Tensor:
    """As `affine_warp`, at matrix (x + disp(x)); disp (N, ndim, *size).

    What is `sampling.beyond` the image has the one value `outside`, in the image's dtype, if there is one.
    """
    places = sampling.coordinates(list(size), matrix) if disp is None else sampling.displaced(disp)
    positions = sampling.transformed(matrix, places)
    found = sampling.sample(image, positions, mode, padding)
    return found if outside is None else sampling.filled(found, sampling.beyond(positions, image.shape[2:]), outside)


def affine_warp_backward(
    grad: Tensor, image: Tensor, matrix: Tensor, mode: str, padding: str, to_image: bool, to_matrix: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to image, in the dtype of the arithmetic, and to matrix, in its own; empty where not asked for."""
    size = list(grad.shape[2:])
    positions = sampling.transformed(matrix, sampling.coordinates(size, matrix))
    grad_image, by_position = sampling.sample_backward(grad, image, positions, mode, padding, to_image, to_matrix)
    if not to_matrix:
        return grad_image, by_position.to(matrix.dtype)
    by_position, x = by_position.flatten(2), sampling.coordinates(size, matrix).flatten(1)
    linear = (by_position.unsqueeze(2) * x).sum(-1)
    return grad_image, torch.cat([linear, by_position.sum(-1, keepdim=True)], -1).to(matrix.dtype)
