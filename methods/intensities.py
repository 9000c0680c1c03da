"""Intensities as the methods expect them: all scale them by one range, which few voxels cannot rule."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from l2rfast.errors import InputError

STRAY, FEW = 0.0005, 3  # of the voxels, and at least so many: what may lie anywhere, at either end
AIR = -1024.0  # the least of Hounsfield's units that a scanner measures
NEAR_AIR = 0.75  # of the way from padding to air: up to there, hardly anything but padding
RIM = 0.25  # of the padded voxels: what interpolation may have put there
FULL = 0.5  # of 0 to 1: what images that are meant to reach from 0 to 1 fill


class Prepared(Protocol):
    """An image of a name, as a method takes it; see `methods.method.Method`."""

    def __call__(self, name: str, image: Tensor, mask: Tensor | None = None, /) -> Tensor: ...


def robust_range(image: Tensor, mask: Tensor | None = None) -> tuple[float, float]:
    """The range of intensities without 0.05 % of the voxels at either end, so that few voxels cannot rule it.

    - At least three voxels are left out at either end, at most a quarter of them.
    - A background, a value that more than half of the voxels have, belongs to the range but is not counted among the
      voxels: a body that fills a thousandth of the image keeps its range.
    - What is outside the scan does not count: CT has values there that no tissue has (-2000, -3024, -32768). It is
      known by a least value below -1024 that more than 0.05 % of the voxels have, with hardly anything near it.

    Exact, not of a sample; the same on every device and for any number of threads.

    Args:
        image: of any shape, floating, finite.
        mask: of the same shape, where the image counts; everywhere when None.

    Returns:
        The least and the largest; the same number twice where the image is constant.
    """
    return _range(_scanned(image, mask))


def in_range(image: Tensor, mask: Tensor | None = None, known: tuple[float, float] | None = None) -> Tensor:
    """The robust range from 0 to 1, what lies beyond cut off; 0 where the image is constant.

    Args:
        image, mask: as in `robust_range`.
        known: what that gives, where it was called before.

    Returns:
        The same shape and dtype.
    """
    low, high = known or robust_range(image, mask)
    return (image - low).div_(high - low if high > low else 1.0).clamp_(0, 1)


def without_strays(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Bring what lies beyond the robust range by more than its width to its ends, and what is outside a CT scan to air.

    So that one voxel of a wrong value, or padding, does not rule a mean, a variance or an extreme. An image that has
    nothing of the kind is returned as it is.

    Args:
        image, mask: as in `robust_range`. What does not count is brought there as well.

    Returns:
        The same shape and dtype.
    """
    values = _scanned(image, mask)
    low, high = _range(values)
    least, most = float(values.min()), float(values.max())
    bottom = low if low - least > high - low else least
    top = high if most - high > high - low else most
    cut = values.size < image.numel() or (bottom, top) != (least, most)
    return image.clamp(bottom, top) if cut else image


def standardised(name: str, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance where it counts, `without_strays`. NumPy's sums are alike for any number of threads.

    Raises:
        InputError: the image is constant.
    """
    image = without_strays(image, mask)
    values = _counted(image, mask)
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if not deviation > 0:
        raise _constant(name)
    return (image - mean).div_(deviation)


def from_zero_to_one(name: str, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled to reach from 0 to 1, `without_strays`; as it is where it lies between them and fills at least half.

    Where the image does not count it is 0, as the background is.

    So networks see the same whatever the unit of the intensities, and images that were brought to 0 to 1 together
    (as VoxelMorph's, by one number for all scans) stay comparable.

    Raises:
        InputError: the image is constant.
    """
    image = without_strays(image, mask)
    seen = _counted(image, mask)
    low, high = float(seen.min()), float(seen.max())
    if not high > low:
        raise _constant(name)
    scaled = image if low >= 0 and high <= 1 and high - low >= FULL else (image - low) / (high - low)
    return scaled if mask is None else torch.where(mask != 0, scaled, 0.0)


def _counted(image: Tensor, mask: Tensor | None) -> np.ndarray:
    """The values that count, flat."""
    values: np.ndarray = image.detach().cpu().numpy()
    return values.ravel() if mask is None else values[(mask != 0).cpu().numpy()]  # three times PyTorch's speed


def _scanned(image: Tensor, mask: Tensor | None) -> np.ndarray:
    """The values that count, flat, without those outside the scan."""
    values = _counted(image, mask)
    least = float(values.min())
    if least < AIR:
        padded = np.count_nonzero(values == least)
        inside = values[values > least + NEAR_AIR * (AIR - least)]
        if inside.size and STRAY * values.size < padded and values.size - inside.size <= (1 + RIM) * padded:
            return inside
    return values


def _range(values: np.ndarray) -> tuple[float, float]:
    least = float(values.min())
    # Most often the background is the least: then nothing of it needs an order.
    mostly = 2 * np.count_nonzero(values == least) > values.size
    middle, low, high = (least, least, least) if mostly else _quantiles(values)
    apart = values[values != middle]
    if 0 < apart.size < values.size / 2:
        _, low, high = _quantiles(apart)
        low, high = min(low, middle), max(high, middle)
    return low, high


def _quantiles(values: np.ndarray) -> tuple[float, float, float]:
    """The middle one, and the least and the largest but for the strays."""
    count = values.size
    strays = min(max(int(STRAY * count), FEW), count // 4)
    places = count // 2, strays, count - 1 - strays
    ordered = np.partition(values, places)
    middle, low, high = (float(ordered[place]) for place in places)
    return middle, low, high


def _constant(name: str) -> InputError:
    return InputError(f"{name}: expected an image that overlaps the fixed one, but it is constant there")
