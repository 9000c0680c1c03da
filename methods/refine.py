"""Refinement of a displacement field by Adam on the control points of a B-spline.

The field is the cubic B-spline of its control points, one at every voxel of the level: three box averages of width
3 (as in ConvexAdam, Siebert et al. 2021). Whatever touches the field gives the same bits for any number of threads.
PyTorch's sums over a whole tensor do not, nor do its fused ``add(alpha=)`` and ``addcmul``, whose rounding depends
on where a thread's share ends; separate products, sums, quotients and roots are exact and do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast import affine_warp, box_average
from l2rfast.lncc import warp_local_ncc
from l2rfast.losses import warp_ssd

# The gradient of a mean distance to a displacement field (1, ndim, *spatial) in voxels of its level.
Gradient = Callable[[Tensor], Tensor]

# Of the distance at one voxel, by a displacement of one voxel: half of what a displacement by as much brings about
# where there is something to see. MIND's and the local NCC's are about alike, for intensities of any scale.
SLOPE = 0.3


def pool(image: Tensor, size: int | Sequence[int]) -> Tensor:
    """Averages over blocks of ``size`` voxels along each axis."""
    if size == 1:
        return image
    return (F.avg_pool3d if image.ndim == 5 else F.avg_pool2d)(image, size if isinstance(size, int) else list(size))


def resample_field(
    field: Tensor, size: Sequence[int], source: int | Sequence[int], target: int | Sequence[int]
) -> Tensor:
    """A field given at one level, at the voxels of another, in voxels of that one.

    Voxel i of a level of s voxels is the block of s voxels from s * i on, its centre at s * i + (s - 1) / 2.

    Args:
        field: (1, ndim, *spatial) in voxels of level ``source``.
        size: spatial size at level ``target``.
        source, target: voxels of the image per voxel of the level, along each axis if not along all.
    """
    s, t = (torch.tensor(sides).expand(field.shape[1]) for sides in (source, target))
    matrix = torch.cat([(t / s).diag(), (((t - 1) / 2 - (s - 1) / 2) / s)[:, None]], 1)[None].to(field.device)
    return affine_warp(field, matrix, size) / by_axis(t / s, field)


def by_axis(values: Sequence[float] | Tensor, field: Tensor) -> Tensor:
    """One number for each axis, in the shape of something to multiply a field with."""
    return torch.as_tensor(values, dtype=field.dtype, device=field.device).view(1, -1, *[1] * (field.ndim - 2))


def _spline(field: Tensor) -> Tensor:
    """Field of control points; but for the border its own adjoint. What is constant stays so, in thin stacks too."""
    return box_average(field, 1, passes=3)


def _add_diffusion_(gradient: Tensor, field: Tensor, weight: float, sides: Sequence[float], scratch: Tensor) -> None:
    """Add the gradient of weight * sum over axes of the mean squared slope between neighbours, a side apart."""
    for axis, side in enumerate(sides, 2):
        n = field.shape[axis] - 1
        if n == 0:
            continue
        difference = scratch.narrow(axis, 0, n)
        torch.sub(field.narrow(axis, 1, n), field.narrow(axis, 0, n), out=difference)
        difference.mul_(2 * weight / side**2 / difference.numel())
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
    sides: Sequence[float] | None = None,
) -> Tensor:
    """Minimise distance(field) + smoothness * diffusion(field) from a start.

    By Adam (Kingma & Ba 2015), of which the step, rate * mean / (root of the mean square + eps), is about as long
    however small the gradient is: its eps of 1e-8 is nothing but where gradients are. Two images that agree but for
    noise it would pull apart by whole voxels. Here eps is what the gradient is where a displacement by ``rate`` is
    left to do, whatever the number of voxels, so that steps become as small as what is left; and the mean is over
    fewer steps (betas 0.5 and 0.999), as one of ten overshoots by then.

    Args:
        distance: gives the gradient of the distance, a mean over the voxels, at a field.
        field: (1, ndim, *spatial), the first control points, in voxels of the level.
        iterations: Adam steps.
        smoothness: weight of the mean squared spatial gradient of the field.
        rate: step size in voxels of the level, of the shortest side.
        advance: called with the fraction of the iterations that is done.
        sides: of a voxel of the level, in units of the shortest; cubes when None. Steps and smoothness are of lengths
            in that unit.

    Returns:
        The refined field, in voxels of the level.
    """
    sides = [1.0] * field.shape[1] if sides is None else sides
    unit = None if max(sides) == 1 else by_axis(sides, field)
    points = field.clone() if unit is None else field * unit
    least = SLOPE * rate / field[0, 0].numel()
    mean, square = torch.zeros_like(points), torch.zeros_like(points)
    scratch = torch.empty_like(points)  # fresh memory would cost more than the arithmetic
    for step in range(1, iterations + 1):
        field = _spline(points)
        gradient = distance(field) if unit is None else distance(field / unit).div_(unit)
        _add_diffusion_(gradient, field, smoothness, sides, scratch)
        gradient = _spline(gradient)
        mean.mul_(0.5).add_(torch.mul(gradient, 0.5, out=scratch))
        square.mul_(0.999).add_(gradient.square_().mul_(0.001))
        size = torch.div(square, 1 - 0.999**step, out=scratch).sqrt_().add_(least)
        points.sub_(torch.mul(mean, rate / (1 - 0.5**step), out=gradient).div_(size))
        advance(step / iterations)
    field = _spline(points)
    return field if unit is None else field / unit


def mind_distance(fixed: Tensor, moving: Tensor, weight: Tensor | None = None) -> Gradient:
    """Squared differences of MIND features (1, 12, *spatial), summed over the channels.

    Args:
        fixed, moving: the features.
        weight: (1, 1, *spatial) of each voxel of fixed, 0 to 1; 1 everywhere when None.
    """
    layout = torch.channels_last_3d if fixed.ndim == 5 else torch.channels_last

    def packed(features: Tensor) -> Tensor:  # as warp_ssd is fastest
        filled = features.new_zeros(1, -(-features.shape[1] // 16) * 16, *features.shape[2:])
        filled = filled.contiguous(memory_format=layout)
        filled[:, : features.shape[1]] = features
        return filled

    fixed, moving = packed(fixed), packed(moving)
    if weight is None:
        return lambda field: warp_ssd(fixed, moving, field)[1]
    return lambda field: warp_ssd(fixed, moving, field)[1].mul_(weight)


def lncc_distance(fixed: Tensor, moving: Tensor, window: Sequence[int], weight: Tensor | None = None) -> Gradient:
    """Minus the local NCC.

    Args:
        fixed, moving: (1, 1, *spatial), of unit variance.
        window: its side along each axis, in voxels; odd.
        weight: (1, 1, *spatial) of each voxel of fixed, 0 to 1: what has less than half counts in no window.
    """
    # A window counts as flat where its standard deviations are below some 6 % of the image's. What is added below the
    # line is added above as well: an image fits nothing better than itself. Else more contrast would fit better still.
    eps = 1e-5 * float(math.prod(window)) ** 2
    mask = None if weight is None else weight >= 0.5
    share = 1.0 if mask is None else int(mask.sum()) / mask.numel()

    def gradient(field: Tensor) -> Tensor:
        _, found = warp_local_ncc(fixed, moving, field, window=window, eps=eps, smooth_nr=eps, mask=mask)
        return found if mask is None else found.mul_(share)

    return gradient
