"""Interpolation by cubic B-splines: the definition.

The spline with coefficients c is sum_j c_j beta(x - j) along each axis, beta the cubic B-spline; the coefficients
beyond the outer voxels mirror those inside about these voxels' centres. Those of an image are the ones of the spline
that goes through it (Unser, Aldroubi & Eden, IEEE PAMI 1991). How samples are padded is defined in `common.sampling`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common import sampling


def _interpolation(size: int, like: Tensor) -> Tensor:
    """(size, size): coefficients -> the spline's values at the voxels of an axis."""
    matrix = torch.zeros(size, size, dtype=like.dtype, device=like.device)
    at = torch.arange(size, device=like.device)
    for step, weight in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
        index = (at, sampling.mirrored(at + step, size))
        matrix.index_put_(index, torch.full_like(matrix[0], weight), accumulate=True)
    return matrix


def spline_coefficients(image: Tensor, adjoint: bool) -> Tensor:
    """image (N, C, *spatial), float32 or float64 -> its coefficients, the same shape; or what the adjoint gives."""
    for axis in range(2, image.ndim):
        matrix = _interpolation(image.shape[axis], image)
        lines = image.movedim(axis, 0)
        # No matrix of these is singular: the host need not wait to be told so.
        solved, _ = torch.linalg.solve_ex(matrix.T if adjoint else matrix, lines.flatten(1))
        image = solved.view(lines.shape).movedim(0, axis)
    return image.contiguous(memory_format=torch.contiguous_format)


def spline_warp(coefficients: Tensor, disp: Tensor, padding: str) -> Tensor:
    """coefficients (N, C, *in), in the dtype of the arithmetic, disp (N, ndim, *out) -> (N, C, *out)."""
    return sampling.sample(coefficients, sampling.displaced(disp), "cubic", padding)


def spline_warp_backward(
    grad: Tensor, coefficients: Tensor, disp: Tensor, padding: str, to_image: bool, to_disp: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to the coefficients and to disp, each in its own dtype; empty where not asked for."""
    by_image, by_disp = sampling.sample_backward(
        grad, coefficients, sampling.displaced(disp), "cubic", padding, to_image, to_disp
    )
    return by_image, by_disp.to(disp.dtype)
