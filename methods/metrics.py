"""How good a registration is, measured on labels and landmarks."""

from __future__ import annotations

import math
from statistics import fmean

import torch
from torch import Tensor

from l2rfast.metrics import dice, folding_fraction, hd95, log_jacobian_std, tre

from .method import Registration
from .training.cases import Scan


def measures(
    result: Registration, fixed: Scan, moving: Scan, *, surfaces: bool = False, displaced: bool = True
) -> dict[str, float]:
    """The measures of Learn2Reg, under its names.

    Args:
        result: of the images of the two scans.
        fixed, moving: with what is known of them.
        surfaces: measure HD95 too, which takes longer.
        displaced: with the displacement field, or through the affines alone, as before the registration.

    Returns:
        ``DSC`` (mean Dice over the labels of fixed) and ``HD95`` (mean, mm) where both have labels, ``TRE_lm`` (mean,
        mm) where both have landmarks; with the field ``LogJacDetStd`` (as `l2rfast.metrics.log_jacobian_std` defines
        it) and ``num_foldings`` (in % of the voxels).
    """
    found, spacing = {}, result.fixed.spacing
    field = result.displacement if displaced else torch.zeros_like(result.displacement)
    if fixed.labels is not None and moving.labels is not None:
        warped = result.warp(moving.labels.data, mode="nearest", displaced=displaced).long()
        truth = fixed.labels.data.long()
        found["DSC"] = _mean(dice(truth, warped))
        if surfaces:
            found["HD95"] = _mean(hd95(truth, warped, spacing=spacing))
    if fixed.landmarks is not None and moving.landmarks is not None:
        found["TRE_lm"] = float(tre(fixed.landmarks, _in_fixed_voxels(result, moving.landmarks), field, spacing).mean())
    if displaced:
        found["LogJacDetStd"] = float(log_jacobian_std(field))
        found["num_foldings"] = 100 * float(folding_fraction(field))
    return found


def dice_by_label(result: Registration, fixed: Scan, moving: Scan) -> dict[int, float]:
    """Of every label of fixed; empty where one of them has no labels."""
    if fixed.labels is None or moving.labels is None:
        return {}
    return dice(fixed.labels.data.long(), result.warp(moving.labels.data, mode="nearest").long())


def _in_fixed_voxels(result: Registration, points: Tensor) -> Tensor:
    matrix = torch.from_numpy(result.matrix).to(points)
    ndim = points.shape[1]
    found: Tensor = torch.linalg.solve(matrix[:, :ndim], (points - matrix[:, ndim]).T)
    return found.T


def _mean(scores: dict[int, float]) -> float:
    known = [score for score in scores.values() if not math.isnan(score)]
    return fmean(known) if known else math.nan
