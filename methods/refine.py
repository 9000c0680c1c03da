"""Refinement of a displacement field by Adam on the control points of a B-spline.

The field is the cubic B-spline of its control points, one at every voxel of the level: three box averages of width
3 (as in ConvexAdam, Siebert et al. 2021). Whatever touches the field gives the same bits for any number of threads.
PyTorch's sums over a whole tensor do not, nor do its fused ``add(alpha=)`` and ``addcmul``, whose rounding depends
on where a thread's share ends; separate products, sums, quotients and roots are exact and do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast import affine_warp, box_average
from l2rfast.lncc import warp_local_ncc
from l2rfast.losses import warp_ssd

# The gradient of a distance to a displacement field (1, ndim, *spatial) in voxels of its level.
Gradient = Callable[[Tensor], Tensor]


def pool(image: Tensor, size: int) -> Tensor:
    """Averages over blocks of ``size`` voxels along each axis."""
    if size == 1:
        return image
    return (F.avg_pool3d if image.ndim == 5 else F.avg_pool2d)(image, size)


def resample_field(field: Tensor, size: Sequence[int], source: int, target: int) -> Tensor:
    """A field given at one level, at the voxels of another, in voxels of that one.

    Voxel i of level s is the block of s voxels from s * i on, its centre at s * i + (s - 1) / 2.

    Args:
        field: (1, ndim, *spatial) in voxels of level ``source``.
        size: spatial size at level ``target``.
        source, target: voxels of the image per voxel of the level.
    """
    ndim, ratio = field.shape[1], target / source
    matrix = torch.zeros(1, ndim, ndim + 1)
    matrix[0, :, :ndim] = torch.eye(ndim) * ratio
    matrix[0, :, ndim] = ((target - 1) / 2 - (source - 1) / 2) / source
    return affine_warp(field, matrix.to(field.device), size) / ratio


def _spline(field: Tensor) -> Tensor:
    """Field of control points; its own adjoint."""
    return box_average(field, 1, passes=3, padding="zeros")


def _add_diffusion_(gradient: Tensor, field: Tensor, weight: float, scratch: Tensor) -> None:
    """Add the gradient of weight * sum over axes of the mean squared difference of neighbours."""
    for axis in range(2, field.ndim):
        n = field.shape[axis] - 1
        if n == 0:
            continue
        difference = scratch.narrow(axis, 0, n)
        torch.sub(field.narrow(axis, 1, n), field.narrow(axis, 0, n), out=difference)
        difference.mul_(2 * weight / difference.numel())
        gradient.narrow(axis, 1, n).add_(difference)
        gradient.narrow(axis, 0, n).sub_(difference)


def refine(
    distance: Gradient,
    field: Tensor,
    *,
    iterations: int,
    smoothness: float,
    rate: float,
    advance: Callable[[float], None],
) -> Tensor:
    """Minimise distance(field) + smoothness * diffusion(field) from a start.

    Args:
        distance: gives the gradient of the distance at a field.
        field: (1, ndim, *spatial), the first control points, in voxels of the level.
        iterations: Adam steps (Kingma & Ba 2015; betas 0.9 and 0.999).
        smoothness: weight of the mean squared spatial gradient of the field.
        rate: step size in voxels of the level.
        advance: called with the fraction of the iterations that is done.

    Returns:
        The refined field, in voxels of the level.
    """
    points = field.clone()
    mean, square = torch.zeros_like(points), torch.zeros_like(points)
    scratch = torch.empty_like(points)  # fresh memory would cost more than the arithmetic
    for step in range(1, iterations + 1):
        field = _spline(points)
        gradient = distance(field)
        _add_diffusion_(gradient, field, smoothness, scratch)
        gradient = _spline(gradient)
        mean.mul_(0.9).add_(torch.mul(gradient, 0.1, out=scratch))
        square.mul_(0.999).add_(gradient.square_().mul_(0.001))
        size = torch.div(square, 1 - 0.999**step, out=scratch).sqrt_().add_(1e-8)
        points.sub_(torch.mul(mean, rate / (1 - 0.9**step), out=gradient).div_(size))
        advance(step / iterations)
    return _spline(points)


def mind_distance(fixed: Tensor, moving: Tensor) -> Gradient:
    """Squared differences of MIND features (1, 12, *spatial), summed over the channels."""
    layout = torch.channels_last_3d if fixed.ndim == 5 else torch.channels_last

    def packed(features: Tensor) -> Tensor:  # as warp_ssd is fastest
        filled = features.new_zeros(1, -(-features.shape[1] // 16) * 16, *features.shape[2:])
        filled = filled.contiguous(memory_format=layout)
        filled[:, : features.shape[1]] = features
        return filled

    fixed, moving = packed(fixed), packed(moving)
    return lambda field: warp_ssd(fixed, moving, field)[1]


def lncc_distance(fixed: Tensor, moving: Tensor, window: int) -> Gradient:
    """Minus the local NCC of images (1, 1, *spatial) of unit variance."""
    # A window counts as flat where its standard deviations are below some 6 % of the image's.
    eps = 1e-5 * float(window ** (fixed.ndim - 2)) ** 2
    return lambda field: warp_local_ncc(fixed, moving, field, window=window, eps=eps)[1]
