"""Intensities as the methods expect them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from l2rfast.errors import InputError


def standardised(name: str, image: Tensor) -> Tensor:
    """Zero mean and unit variance. NumPy's sums do not depend on the number of threads.

    Raises:
        InputError: the image is constant.
    """
    values = image.cpu().numpy()
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if not deviation > 0:
        raise _constant(name)
    return (image - mean) / deviation


def from_zero_to_one(name: str, image: Tensor) -> Tensor:
    """Scaled to reach from 0 to 1; as it is where it lies between them already.

    Raises:
        InputError: the image is constant.
    """
    low, high = (float(value) for value in image.aminmax())
    if not high > low:
        raise _constant(name)
    return image if low >= 0 and high <= 1 else (image - low) / (high - low)


def _constant(name: str) -> InputError:
    return InputError(f"{name}: expected an image that overlaps the fixed one, but it is constant there")
