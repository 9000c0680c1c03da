"""How good a registration is, measured on labels and landmarks."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from l2rfast.errors import notice
from l2rfast.io import Volume
from l2rfast.metrics import dice, digital_folding_fraction, folding_fraction, hd95, log_jacobian_std, tre

from .result import Registration
from .training.cases import Scan

MEASURES = ("DSC", "HD95", "TRE_lm", "TRE_kp", "LogJacDetStd", "num_foldings", "digital_foldings")


def measures(
    result: Registration, fixed: Scan, moving: Scan, *, surfaces: bool = False, displaced: bool = True
) -> dict[str, float]:
    """The measures of Learn2Reg, under its names, and folds by a stricter one.

    Args:
        result: of the images of the two scans.
        fixed, moving: with what is known of them.
        surfaces: measure HD95 too, which takes longer.
        displaced: with the displacement field, or through the affines alone, as before the registration.

    Returns:
        ``DSC`` (mean Dice over the labels that are in both) and ``HD95`` (mean, mm) where both have labels, ``TRE_lm``
        (mean, mm) where both have landmarks, ``TRE_kp`` where both have keypoints; with the field ``LogJacDetStd`` (as
        `l2rfast.metrics.log_jacobian_std` defines it), ``num_foldings`` and ``digital_foldings`` (in % of the voxels;
        `l2rfast.metrics.digital_folding_fraction` defines the latter). NaN where one is not defined.
    """
    found, spacing = {}, result.fixed.spacing
    field = result.displacement if displaced else torch.zeros_like(result.displacement)
    if fixed.labels is not None and moving.labels is not None:
        warped = result.warp(moving.labels.data, mode="nearest", displaced=displaced).long()
        truth, both = fixed.labels.data.long(), in_both(fixed.labels, moving.labels)
        if not both:
            notice("data: labels of a pair that have no label in common: neither Dice nor HD95 is defined")
        found["DSC"] = _mean(dice(truth, warped, both))
        if surfaces:
            found["HD95"] = _mean(hd95(truth, warped, both, spacing))
    points = {"TRE_lm": (fixed.landmarks, moving.landmarks), "TRE_kp": (fixed.keypoints, moving.keypoints)}
    for name, (a, b) in points.items():
        if a is not None and b is not None:
            found[name] = float(distances(result, a, b, displaced=displaced).mean())
    if displaced:
        found["LogJacDetStd"] = float(log_jacobian_std(field))
        found["num_foldings"] = 100 * float(folding_fraction(field))
        found["digital_foldings"] = 100 * float(digital_folding_fraction(field))
    return found


def distances(result: Registration, fixed: Tensor, moving: Tensor, *, displaced: bool = True) -> Tensor:
    """Target registration error of points, (M,) in mm of the fixed world, see `l2rfast.metrics.tre`.

    Args:
        result: of their images.
        fixed, moving: (M, ndim), pairwise, in voxels of either image.
        displaced: with the displacement field, or through the affines alone.
    """
    matrix = torch.from_numpy(result.matrix).to(moving)
    ndim = moving.shape[1]
    back: Tensor = torch.linalg.solve(matrix[:, :ndim], (moving - matrix[:, ndim]).T).T
    field = result.displacement if displaced else torch.zeros_like(result.displacement)
    return tre(fixed, back, field, result.fixed.spacing)


def dice_by_label(result: Registration, fixed: Scan, moving: Scan) -> dict[int, float]:
    """Of every label that is in both; empty where one of them has no labels."""
    if fixed.labels is None or moving.labels is None:
        return {}
    warped = result.warp(moving.labels.data, mode="nearest").long()
    return dice(fixed.labels.data.long(), warped, in_both(fixed.labels, moving.labels))


def in_both(fixed: Volume, moving: Volume) -> list[int]:
    """The labels that Learn2Reg's evaluation is about: what moving does not have no registration could bring."""
    common: np.ndarray = np.intersect1d(fixed.data.numpy(), moving.data.numpy())
    return [int(label) for label in common if label != 0]


def _mean(scores: dict[int, float]) -> float:
    known = [score for score in scores.values() if not math.isnan(score)]
    return fmean(known) if known else math.nan
