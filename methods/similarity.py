"""What two images are compared by where a field is refined: a distance, and its gradient to the displacements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast import warp
from l2rfast.lncc import warp_local_ncc
from l2rfast.losses import warp_ssd

# Of a displacement field (1, ndim, *spatial) in voxels of its level: the distance, a mean over the voxels that count,
# without axes, and the gradient to the field of such a sum over all voxels, those that do not count being 0.
Distance = Callable[[Tensor], tuple[Tensor, Tensor]]

# Of the distance at one voxel, by a displacement of one voxel: what a displacement by as much brings about where there
# is something to see, as both sides answer it. MIND's and the local NCC's are about alike, at any scale of intensities.
SLOPE = 0.9
NARROWEST, SHARES = 5, 6  # of the windows of the local NCC: voxels, and parts of the longest side of the image


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
    """The mean of values by how much each counts, without axes; NumPy's sums are the same for any number of threads."""
    sums = [float(x.cpu().numpy().sum(dtype=np.float64)) for x in (values * counts, counts)]
    return values.new_tensor(sums[0] / sums[1] if sums[1] else 0.0)


def window_of(voxels: int, size: Sequence[int], sides: Sequence[float]) -> list[int]:
    """The window of the local NCC: odd widths of about the same length along each axis, at most a share of the image.

    Args:
        voxels: asked for, of the shortest side.
        size: of the image at the level, in voxels.
        sides: of a voxel of the level, in units of the shortest.
    """
    widest = max(NARROWEST, *(n * side / SHARES for n, side in zip(size, sides, strict=True)))
    return [2 * int(min(voxels, widest) / side / 2) + 1 for side in sides]


def lncc_distance(fixed: Tensor, moving: Tensor, weight: Weight, window: Sequence[int]) -> Distance:
    """Minus the local NCC.

    Args:
        fixed, moving: (1, 1, *spatial), of unit variance.
        weight: (1, 1, *spatial) of each voxel of fixed, 0 to 1: what has less than half counts in no window.
        window: its side along each axis, in voxels; odd.
    """
    # A window counts as flat where its standard deviations are below some 6 % of the image's. What is added below the
    # line is added above as well: an image fits nothing better than itself. Else more contrast would fit better still.
    eps = 1e-5 * float(math.prod(window)) ** 2

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        counts = weight.at(field)
        mask = None if counts is None else counts >= 0.5
        loss, gradient = warp_local_ncc(fixed, moving, field, window=window, eps=eps, smooth_nr=eps, mask=mask)
        return loss[0], gradient if mask is None else gradient.mul_(int(mask.sum()) / mask.numel())

    return distance
