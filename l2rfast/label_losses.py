"""Losses between two sets of labels, alone and over several Gaussian scales; public as `l2rfast.losses`.

The scales make a loss that knows a direction where labels do not overlap yet (Hu et al., MedIA 2018, equation 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import _check
from .errors import InputError
from .filters import gaussian_filter

SIGMAS = (0.0, 1.0, 2.0, 4.0, 8.0)  # voxels


def _dice(a: Tensor, b: Tensor) -> Tensor:
    return 1 - _ratio(2 * (a * b).sum(2), a.sum(2) + b.sum(2))


def _jaccard(a: Tensor, b: Tensor) -> Tensor:
    both = (a * b).sum(2)
    return 1 - _ratio(both, a.square().sum(2) + b.square().sum(2) - both)


def _mean_squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(2)


def _cross_entropy(a: Tensor, b: Tensor) -> Tensor:
    least = 1e-6  # label-reg's
    return -(a * b.clamp(min=least).log() + (1 - a) * (1 - b).clamp(min=least).log()).mean(2)


def _generalised_dice(a: Tensor, b: Tensor) -> Tensor:
    classes = [torch.stack([x, 1 - x]) for x in (a, b)]  # the label and the background
    weights = 1 / classes[0].sum(3).square().clamp(min=1)
    both = (weights * (classes[0] * classes[1]).sum(3)).sum(0)
    return 1 - _ratio(2 * both, (weights * (classes[0] + classes[1]).sum(3)).sum(0))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return a / b.clamp(min=torch.finfo(b.dtype).tiny)


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice": _dice,
    "cross-entropy": _cross_entropy,
    "mean-squares": _mean_squares,
    "jaccard": _jaccard,
    "generalised-dice": _generalised_dice,
}


def label_loss(a: Tensor, b: Tensor, measure: str = "dice", *, reduction: str = "mean") -> Tensor:
    """How little two sets of labels agree.

    Args:
        a: (N, C, *spatial), floating: how much of every voxel is of label c, from 0 to 1; the truth.
        b: the same of what was predicted.
        measure: of each item and label, with sums and means over its voxels:

            ====================  =================================================================================
            ``dice``              1 - 2 sum(a b) / sum(a + b)
            ``jaccard``           1 - sum(a b) / sum(a^2 + b^2 - a b)
            ``mean-squares``      mean((a - b)^2)
            ``cross-entropy``     - mean(a log b + (1 - a) log(1 - b)), of at least 1e-6
            ``generalised-dice``  Dice of label and background together, each weighted by 1 / volume^2 (Sudre et al.,
                                  DLMIA 2017)
            ====================  =================================================================================

            A label that is nowhere counts 1 in the overlaps, and has no gradient there. Nothing is added to numerators
            and denominators: overlaps are exact for labels of a single voxel too. The 1e-6 is of a probability.
        reduction: ``"mean"`` over items and labels, or ``"none"``.

    Returns:
        A scalar, or (N, C). Differentiable.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, an unknown measure or reduction.
    """
    _check.image("a", a)
    _check.image("b", b)
    _check.same("a, b", a, b)
    _check.choice("measure", measure, list(MEASURES))
    _check.choice("reduction", reduction, ("mean", "none"))
    wide = _check.arithmetic_dtype(a)  # float16 counts to 65,504 voxels
    losses = MEASURES[measure](a.flatten(2).to(wide), b.flatten(2).to(wide))
    return (losses.mean() if reduction == "mean" else losses).to(a.dtype)


def multiscale_loss(
    a: Tensor, b: Tensor, measure: str = "dice", *, sigmas: Sequence[float] = SIGMAS, reduction: str = "mean"
) -> Tensor:
    """The mean of `label_loss` over labels smoothed by Gaussians, see `l2rfast.filters.gaussian_filter`.

    Args:
        a, b, measure, reduction: as there.
        sigmas: standard deviations in voxels; 0 leaves labels as they are.

    Returns:
        A scalar, or (N, C). Differentiable.

    Raises:
        InputError: what `label_loss` and `gaussian_filter` raise, or no sigma.
    """
    if not sigmas:
        raise InputError("sigmas: expected at least one")
    _check.same("a, b", a, b)
    scales = []
    for sigma in sigmas:
        first, second = (gaussian_filter(x, sigma) if sigma else x for x in (a, b))
        scales.append(label_loss(first, second, measure, reduction=reduction))
    return torch.stack(scales).mean(0)


def dice(a: Tensor, b: Tensor) -> Tensor:
    """`label_loss` with measure ``"dice"``: 1 minus the soft Dice overlap (Milletari et al., 3DV 2016).

    Args:
        a, b: as there.

    Returns:
        As there: 0 where they agree, 1 where nothing overlaps.

    Raises:
        InputError: as there.
    """
    return label_loss(a, b)


def multiscale_dice(a: Tensor, b: Tensor, *, sigmas: Sequence[float] = SIGMAS) -> Tensor:
    """`multiscale_loss` with measure ``"dice"``: label-reg's loss (Hu et al., Medical Image Analysis 2018).

    Args:
        a, b, sigmas: as there.

    Returns:
        As there.

    Raises:
        InputError: as there.
    """
    return multiscale_loss(a, b, sigmas=sigmas)
