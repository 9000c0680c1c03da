"""How good a registration is: the same code for every tool's fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from torch import Tensor

import l2rfast
from l2rfast import metrics
from l2rfast.io import Volume, voxel_to_voxel
from l2rfast.methods.result import through

from .tools import Fields

RIGHT = 0.03  # by which our warp of a tool's field may differ from its own image: its rounding and its border


@dataclass(frozen=True)
class Quality:
    """Attributes:
    dice, hd95: means over the labels, the latter in mm.
    folded_percent: of the voxels, by central differences as in Learn2Reg.
    digital_percent: of the voxels, where the map on the grid is no digital diffeomorphism.
    log_jacobian_std: of the displacement.
    inverse_residual: mean distance in voxels, the larger of both orders; None where there is no inverse.
    conversion: how far ours of the field is from the tool's own image, by `difference`; None where it has none.
    """

    dice: float
    hd95: float
    folded_percent: float
    digital_percent: float
    log_jacobian_std: float
    inverse_residual: float | None
    conversion: float | None


def quality(
    fixed: Volume, moving: Volume, labels: tuple[Tensor, Tensor], chosen: Sequence[int], found: Fields
) -> Quality:
    """Measure what a tool found.

    Args:
        fixed, moving: the images.
        labels: of fixed, and of moving.
        chosen: the labels to measure.
        found: the fields.

    Raises:
        RuntimeError: our warp of the field is not the tool's own image: the conversion is wrong.
    """
    matrix = voxel_to_voxel(fixed.affine, np.linalg.solve(found.matrix, moving.affine))
    shape, disp = fixed.data.shape, found.displacement
    conversion = None
    if found.warped is not None:
        ours = through(moving.data[None, None], matrix, shape, disp, "linear", "zeros")[0, 0]
        conversion = difference(ours, found.warped)
        if not conversion < RIGHT:
            raise RuntimeError(f"our warp of its field is not its own image: they differ by {conversion:.2g}")
    warped = through(labels[1][None, None], matrix, shape, disp, "nearest", "zeros")[0, 0]
    return Quality(
        mean(metrics.dice(labels[0], warped, chosen)),
        mean(metrics.hd95(labels[0], warped, chosen, fixed.spacing)),
        100 * float(metrics.folding_fraction(disp)),
        100 * float(metrics.digital_folding_fraction(disp)),
        float(metrics.log_jacobian_std(disp)),
        None if found.inverse is None else residual(disp, found.inverse),
        conversion,
    )


def difference(ours: Tensor, own: Tensor) -> float:
    """Of our warp from a tool's own: the root mean square, over the standard deviation of the latter."""
    return math.sqrt(float((ours.double() - own.double()).square().mean())) / float(own.double().std(correction=0))


def residual(disp: Tensor, inverse: Tensor) -> float:
    """Mean distance in voxels from where one field after the other leads: the larger of both orders."""
    both = ((disp, inverse), (inverse, disp))
    return max(float(l2rfast.compose(outer, inner).double().norm(dim=1).mean()) for outer, inner in both)


def mean(by_label: dict[int, float]) -> float:
    """Over the labels that both have."""
    return fmean(value for value in by_label.values() if not math.isnan(value))
