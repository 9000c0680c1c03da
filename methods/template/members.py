"""The members of a template: their images with intensities that can be averaged, and the mean of those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from l2rfast.filters import gaussian_filter
from l2rfast.io import Volume
from l2rfast.resampling import Resampler
from l2rfast.world import Grid, Transform

from ..intensities import in_range, robust_range
from ..masks import filled
from ..several import joined

SHARPENED = 1.0  # voxels: the standard deviation of what an unsharp mask takes away


@dataclass(frozen=True)
class Member:
    """A scan, or several contrasts of it.

    Attributes:
        id: what it is called.
        images: the file of each contrast.
        mask: where they count; everywhere when None.
        nan_outside: whether voxels that are NaN do not.
        name: of the argument, for messages.
    """

    id: str
    images: Sequence[Path]
    mask: Path | None = None
    nan_outside: bool = False
    name: str = "IMAGES"

    def volume(self) -> Volume:
        """As it is.

        Raises:
            InputError: an image that cannot be used.
        """
        return joined(self.name, list(self.images), "moving_mask", self.mask, nan_outside=self.nan_outside)

    def read(self) -> Volume:
        """Of each contrast the robust range (`methods.intensities.robust_range`) is 0 to 1; beyond it is cut.

        Raises:
            InputError: an image that cannot be used.
        """
        volume = self.volume()
        whole = filled(volume)
        data, *contrasts = (
            in_range(image, None, robust_range(own, volume.mask))
            for image, own in zip((whole.data, *whole.contrasts), (volume.data, *volume.contrasts), strict=True)
        )
        return replace(volume, data=data, contrasts=tuple(contrasts))


def grid_of(volume: Volume) -> Grid:
    """Where the voxels of an image lie."""
    return Grid(tuple(volume.data.shape), volume.affine)


def sampled(image: Volume, transform: Transform, grid: Grid) -> Tensor:
    """A member on a grid, where a transform leads from there.

    Returns:
        (contrasts, *grid) float32; NaN where the image does not reach, or does not count.
    """
    own, shape = grid_of(image), image.data.shape
    mask = torch.ones(shape, dtype=torch.bool) if image.mask is None else image.mask
    there = Resampler(transform, grid, own, interpolation="nearest", outside=False)(mask[None, None])[0, 0]
    values = Resampler(transform, grid, own)(torch.stack([image.data, *image.contrasts])[None])[0]
    return values.masked_fill_(~there, math.nan)


class MeanImage:
    """The mean of images on one grid, in every voxel of those that reach it and count there.

    Sums are in float64 and in the order in which images are added.

    Args:
        like: an image on that grid, with as many contrasts.
    """

    def __init__(self, like: Volume) -> None:
        self.like = like
        self._total = torch.zeros(1 + len(like.contrasts), *like.data.shape, dtype=torch.float64)
        self._count = torch.zeros(like.data.shape, dtype=torch.int32)

    def add(self, values: Tensor) -> None:
        """One more, see `sampled`."""
        self._total += values.nan_to_num(0.0)
        self._count += ~values[0].isnan()

    def volume(self, sharpen: float) -> Volume:
        """The mean; 0 where no image reaches.

        Args:
            sharpen: how much of an unsharp mask is added: of what is gone after a Gaussian filter of one voxel.
        """
        data, *contrasts = (_sharpened((one / self._count.clamp(min=1)).float(), sharpen) for one in self._total)
        return replace(self.like, data=data, mask=None, contrasts=tuple(contrasts))


def _sharpened(image: Tensor, share: float) -> Tensor:
    """Of intensities from 0 to 1, which they stay."""
    if share == 0:
        return image
    smooth = gaussian_filter(image[None, None], SHARPENED)[0, 0]
    return image.add((image - smooth).mul_(share)).clamp_(0, 1)


def sharpness(volume: Volume) -> float:
    """How sharp the first contrast is: the root mean square of its gradient over the voxels, per millimetre.

    Of images with intensities from 0 to 1 on grids alike, the sharper has more of it; noise too.
    """
    slopes = torch.gradient(volume.data.double(), spacing=list(volume.spacing))
    return float(sum((slope.square() for slope in slopes), torch.zeros(())).mean().sqrt())
