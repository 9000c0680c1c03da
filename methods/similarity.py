"""What two images are compared by where a field is refined: a distance, and its gradient to the displacements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast import box_average, joint_histogram, warp
from l2rfast.lncc import warp_local_ncc
from l2rfast.losses import warp_ssd

from .intensities import in_range

# Of a displacement field (1, ndim, *spatial) in voxels of its level: the distance, a mean over the voxels that count,
# without axes, and the gradient to the field of such a sum over all voxels, those that do not count being 0; or the
# mean of that over each block of voxels.
Distance = Callable[[Tensor], tuple[Tensor, Tensor]]

# Of the distance at one voxel, by a displacement of one voxel: what a displacement by as much brings about where there
# is something to see, as both sides answer it. MIND's and the local NCC's are about alike, at any scale of intensities.
SLOPE = 0.9
NARROWEST, SHARES = 5, 6  # of the windows of the local NCC: voxels, and parts of the longest side of the image
AROUND, FLOOR = 3, 0.1  # of the steepness: voxels to each side, and the least, as a share of the usual one
BINS = 32  # of the histograms of mutual information, for each image
TINY = 1e-12  # beside probabilities


class Weight(NamedTuple):
    """What counts where one image is compared with another's warp, at one level.

    Attributes:
        own: (1, 1, *spatial), 0 to 1, of the voxels of the one; None where all count.
        other: likewise of the voxels of the other, which are warped with it.
    """

    own: Tensor | None = None
    other: Tensor | None = None

    def at(self, field: Tensor) -> Tensor | None:
        """(1, 1, *spatial) of the voxels of the one, where the other is warped by a field; None where all count."""
        if self.other is None:
            return self.own
        warped = warp(self.other, field)
        return warped if self.own is None else warped.mul_(self.own)


def together(masks: Sequence[Tensor | None]) -> Tensor | None:
    """The product of those that there are."""
    there = [mask for mask in masks if mask is not None]
    return math.prod(there[1:], start=there[0]) if there else None


def both_ways(
    distance: Callable[..., Distance],
    images: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    *arguments: Any,
) -> tuple[Distance, Distance]:
    """The distances of fixed and moving, or of features of them, each from the other's warp.

    Args:
        distance: of an image, another, a `Weight`, and the arguments.
        images: of fixed and of moving, at one level.
        masks: (1, 1, *spatial) of each, 0 to 1; None where all counts.
        arguments: of the distance.
    """
    (fixed, moving), (of_fixed, of_moving) = images, masks
    return (
        distance(fixed, moving, Weight(of_fixed, of_moving), *arguments),
        distance(moving, fixed, Weight(of_moving, of_fixed), *arguments),
    )


def summed(distances: Sequence[Distance], shares: Sequence[float]) -> Distance:
    """The mean of distances, by their shares."""
    if len(distances) == 1:
        return distances[0]
    total = sum(shares)

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = distances[0](field)
        loss, gradient = loss * (shares[0] / total), gradient.mul_(shares[0] / total)
        for one, share in zip(distances[1:], shares[1:], strict=True):
            its_loss, its_gradient = one(field)
            loss = loss + its_loss * (share / total)
            gradient += its_gradient.mul_(share / total)
        return loss, gradient

    return distance


def mind_distance(fixed: Tensor, moving: Tensor, weight: Weight) -> Distance:
    """Squared differences of MIND features (1, 12, *spatial), summed over the channels.

    Args:
        fixed, moving: the features.
        weight: of the voxels.
    """
    layout = torch.channels_last_3d if fixed.ndim == 5 else torch.channels_last

    def packed(features: Tensor) -> Tensor:  # as warp_ssd is fastest
        filled = features.new_zeros(1, -(-features.shape[1] // 16) * 16, *features.shape[2:])
        filled = filled.contiguous(memory_format=layout)
        filled[:, : features.shape[1]] = features
        return filled

    fixed, moving = packed(fixed), packed(moving)

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = warp_ssd(fixed, moving, field)
        counts = weight.at(field)
        if counts is None:
            return loss[0], gradient
        squares = warp(moving, field).sub_(fixed).square_().sum(1, keepdim=True)
        return mean_of(squares, counts), gradient.mul_(counts)

    return distance


def mean_of(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of values by how much each counts, without axes; 0 where nothing does."""
    total, count = _sum(values * counts), _sum(counts)
    return torch.where(count != 0, total / count, 0.0).to(values.dtype)


def _sum(values: Tensor) -> Tensor:
    """Without axes, in float64. On the CPU NumPy's, which is the same for any number of threads."""
    if values.device.type == "cpu":
        return torch.tensor(values.numpy().sum(dtype=np.float64), dtype=torch.float64)
    return values.sum(dtype=torch.float64)


def window_of(
    voxels: int, size: Sequence[int], sides: Sequence[float], blocks: Sequence[int] | None = None
) -> list[int]:
    """The window of the local NCC: widths of about the same length along each axis, at most a share of the image.

    Args:
        voxels: asked for, of the shortest side.
        size: of the image at the level, in voxels.
        sides: of a voxel of the level, in units of the shortest.
        blocks: of which the widths are odd multiples, in voxels along each axis; of one when None.
    """
    widest = max(NARROWEST, *(n * side / SHARES for n, side in zip(size, sides, strict=True)))
    each = [1] * len(sides) if blocks is None else blocks
    return [
        block * (2 * int(min(voxels, widest) / side / block / 2) + 1) for side, block in zip(sides, each, strict=True)
    ]


def lncc_distance(
    fixed: Tensor, moving: Tensor, weight: Weight, window: Sequence[int], blocks: Sequence[int] | None = None
) -> Distance:
    """Minus the local NCC.

    Args:
        fixed, moving: (1, 1, *spatial), of unit variance.
        weight: (1, 1, *spatial) of each voxel of fixed, 0 to 1: what has less than half counts in no window.
        window: its side along each axis, in voxels; an odd multiple of the block's.
        blocks: of voxels along each axis: there is a window around every block, and the gradient is of each. Of one
            voxel when None.
    """
    # A window counts as flat where its standard deviations are below some 6 % of the image's. What is added below the
    # line is added above as well: an image fits nothing better than itself. Else more contrast would fit better still.
    eps = 1e-5 * float(math.prod(window)) ** 2
    sides = [1] * len(window) if blocks is None else list(blocks)

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        counts = weight.at(field)
        mask = None if counts is None else counts >= 0.5
        loss, gradient = warp_local_ncc(
            fixed, moving, field, window=window, eps=eps, smooth_nr=eps, mask=mask, blocks=sides
        )
        share: float | Tensor = 1 / math.prod(sides)
        if mask is not None:
            windows = (F.max_pool3d if mask.ndim == 5 else F.max_pool2d)(mask.to(field.dtype), sides)
            share = share * (windows.sum(dtype=torch.float64) / windows.numel())
        return loss[0], gradient.mul_(share)

    return distance


def ssd_distance(fixed: Tensor, moving: Tensor, weight: Weight) -> Distance:
    """Squared differences, for images of one scale of intensities.

    Args:
        fixed, moving: (1, 1, *spatial).
        weight: of the voxels.

    The gradient is over the steepness of fixed, as in demons (Thirion, MedIA 1998): a length of what is left to do.
    """
    scale = SLOPE / 2 / steepness(fixed)

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = warp_ssd(fixed, moving, field)
        gradient.mul_(scale)
        counts = weight.at(field)
        if counts is None:
            return loss[0], gradient
        return mean_of(warp(moving, field).sub_(fixed).square_(), counts), gradient.mul_(counts)

    return distance


def mi_distance(fixed: Tensor, moving: Tensor, weight: Weight) -> Distance:
    """Minus the mutual information, as `l2rfast.losses.mutual_information` with cubic windows, of the robust ranges.

    Args:
        fixed, moving: (1, 1, *spatial).
        weight: of the voxels.

    It is the mean logarithm of a likelihood, whose curvature by the warped intensities is Fisher's information of one
    image on the other. The gradient is over that and the steepness of the warped image: a length of what is left to do.
    """
    fixed, moving = (_in_bins(image) for image in (fixed, moving))

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        counts = weight.at(field)
        with torch.enable_grad():
            field = field.detach().requires_grad_()
            warped = warp(moving, field)
            joint = joint_histogram(fixed, warped, bins=BINS, window="cubic", weight=counts)[0]
            apart = joint.sum(1, keepdim=True) * joint.sum(0)
            loss = -(joint * ((joint + TINY) / (apart + TINY)).log()).sum()
            (gradient,) = torch.autograd.grad(loss, field)
        share = 1.0 if counts is None else mean_of(counts, torch.ones_like(counts)).double()
        gradient.div_(steepness(warped.detach())).mul_(share * SLOPE / _information(joint.detach()).clamp(min=TINY))
        return loss.detach().to(gradient.dtype), gradient

    return distance


def steepness(image: Tensor) -> Tensor:
    """The square of the gradient's length, per voxel, averaged around each; not below a share of what it is where there
    is something to see, its mean weighted by itself: (1, 1, *spatial)."""
    squares = torch.zeros_like(image)
    for axis in range(2, image.ndim):
        steps = image.diff(dim=axis).square_().div_(2)
        squares.narrow(axis, 0, steps.shape[axis]).add_(steps)
        squares.narrow(axis, 1, steps.shape[axis]).add_(steps)
    squares = box_average(squares, AROUND, passes=2)
    typical = mean_of(squares, squares).double()
    return squares.add_(torch.where(typical != 0, FLOOR * typical, 1.0))


def _in_bins(image: Tensor) -> Tensor:
    """The robust range from the second bin to the last but one, so that no window is cut."""
    return in_range(image).mul_(BINS - 3).add_(1)


def _information(joint: Tensor) -> Tensor:
    """Fisher's, of the intensity of the first image on that of the second, in bins: 4 times the mean square of the
    derivatives of the roots of the conditional probabilities, finite where those are 0."""
    of_second = joint.sum(0)
    roots = (joint / of_second.clamp(min=TINY)).sqrt()
    return 2 * (roots.diff(dim=1).square() * (of_second[1:] + of_second[:-1])).sum()
