"""Displacement fields without folds, as a digital map counts them: see `l2rfast.digital_jacobian`.

Between voxels a field is interpolated, so a map can fold where the central differences of a voxel tell nothing of it.
"""

from __future__ import annotations

from torch import Tensor

from l2rfast import box_average, compose, digital_jacobian, invert

from .refine import Fields

LEAST = 0.01  # of a determinant: float32 fields are written with as many digits again
TURNS, WIDER = 60, 8  # after every so many, more is smoothed around a fold


def settled(fields: Fields) -> Fields:
    """A field and its inverse, of two that are nearly each other's: they meet in the middle, and have no folds.

    Args:
        fields: (1, ndim, *spatial) each, in voxels.

    Returns:
        The same shapes. The second is the inverse of the first, but where it would fold.
    """
    there, back = fields
    there = unfolded(compose(there, compose(back, there).mul_(-0.5)))
    return there, unfolded(invert(there, back))


def unfolded(field: Tensor) -> Tensor:
    """A field without folds: smoothed where it has them, and around, until there are none.

    Args:
        field: (1, ndim, *spatial) displacements in voxels.

    Returns:
        The same where no folds were near, of the same shape. Identical for any number of threads.
    """
    for turn in range(TURNS):
        bad = digital_jacobian(field) <= LEAST
        if not bad.any():
            return field
        reach = 1 + turn // WIDER
        near = box_average(bad[:, None].to(field.dtype), reach, passes=2)
        near = near.mul_(float((2 * reach + 1) ** 2)).clamp_(max=1)
        field = field + near * (box_average(field) - field)
    # What is left is made small: a map that is close enough to the identity cannot fold.
    while (digital_jacobian(field) <= LEAST).any():
        field = 0.8 * field
    return field
