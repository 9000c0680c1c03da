"""MONAI's `Warp` and `DVF2DDF`, and its losses of images and displacement fields."""

from __future__ import annotations

from typing import Any

import monai.losses
import monai.losses.deform
import monai.networks.blocks
from monai.config.deviceconfig import USE_COMPILED
from torch import Tensor

from .. import lncc
from ..histogram import joint_histogram
from ..losses import STENCILS, bending_energy, gradient_energy
from .fields import warped
from .patching import FallThrough, Library

LIBRARY = Library("monai", ">=1.4,<1.7")


@LIBRARY.replaces(monai.networks.blocks.Warp, "forward")
def _warp(self: Any, image: Tensor, ddf: Tensor) -> Tensor | FallThrough:
    if USE_COMPILED:
        return FallThrough("MONAI's compiled extension is in use, which has other paddings")
    if self.jitter:
        return FallThrough("jitter")
    # MONAI before 1.6 has these names only.
    mode = getattr(self, "_interp_mode_native", self._interp_mode)
    padding = getattr(self, "_padding_mode_native", self._padding_mode)
    return warped(image, ddf, mode, padding)


def _weighting(loss: Any) -> str | None:
    """MONAI keeps the kernel, not its name: found once for every loss, as reading it makes a GPU wait."""
    if not hasattr(loss, "_l2rfast_weighting"):
        weights: list[float] = loss.kernel.tolist()
        gaussian = abs(weights[len(weights) // 2] - 1) < 1e-6 and weights[0] > 0  # a triangle of 3 is 0, 1, 0
        name = "box" if min(weights) == 1 else "gaussian" if gaussian else "triangular"
        loss._l2rfast_weighting = name if abs(weights[0] - weights[-1]) < 1e-6 else None
    found: str | None = loss._l2rfast_weighting
    return found


@LIBRARY.replaces(monai.losses.LocalNormalizedCrossCorrelationLoss, "forward")
def _local_ncc(self: Any, pred: Tensor, target: Tensor) -> Tensor | FallThrough:
    if pred.ndim - 2 != self.ndim or pred.shape != target.shape or pred.numel() == 0:
        return FallThrough("shapes that we do not take")
    if pred.dtype != target.dtype or not pred.is_floating_point() or pred.device != target.device:
        return FallThrough("dtypes or devices that we do not take")
    if not (self.smooth_dr > 0 and self.smooth_nr >= 0):
        return FallThrough("smooth_nr or smooth_dr below what we take")
    weighting = _weighting(self)
    if weighting is None:
        return FallThrough("a gaussian kernel that is cut to one side, as before MONAI 1.6")
    return -lncc.local_ncc(
        pred,
        target,
        window=self.kernel_size,
        weighting=weighting,
        reduction=self.reduction,
        eps=self.smooth_dr,
        semantics="monai",
        smooth_nr=self.smooth_nr,
    )


@LIBRARY.replaces(monai.losses.DiffusionLoss, "forward")
def _diffusion(self: Any, pred: Tensor) -> Tensor | FallThrough:
    if self.normalize or self.reduction != "mean":
        return FallThrough("normalize, or a reduction that is not the mean")
    if pred.ndim not in (4, 5) or pred.shape[1] != pred.ndim - 2 or min(pred.shape) == 0 or min(pred.shape[2:]) < 3:
        return FallThrough("shapes that we do not take")
    if not pred.is_floating_point():
        return FallThrough("dtypes or devices that we do not take")
    return gradient_energy(pred)


# Before 1.6.1, of differences of differences.
_STENCIL = "compact" if hasattr(monai.losses.deform, "spatial_gradient_squared") else "wide"


@LIBRARY.replaces(monai.losses.BendingEnergyLoss, "forward")
def _bending(self: Any, pred: Tensor) -> Tensor | FallThrough:
    if self.normalize or self.reduction != "mean":
        return FallThrough("normalize, or a reduction that is not the mean")
    if pred.ndim not in (4, 5) or pred.shape[1] != pred.ndim - 2 or len(pred) == 0:
        return FallThrough("shapes that we do not take")
    if min(pred.shape[2:]) < STENCILS[_STENCIL] or not pred.is_floating_point():
        return FallThrough("shapes or dtypes that we do not take")
    return bending_energy(pred, stencil=_STENCIL)


def _in_bins(image: Tensor, bins: int) -> Tensor:
    """Intensities as Mattes et al. (IEEE TMI 2003) divide them: two bins are left at both ends of the range."""
    low, high = image.min(), image.max()
    size = (high - low) / (bins - 4)
    return (image / size - (low / size - 2)).clamp(2, bins - 3)


@LIBRARY.replaces(monai.losses.GlobalMutualInformationLoss, "forward")
def _mutual_information(self: Any, pred: Tensor, target: Tensor) -> Tensor | FallThrough:
    if pred.shape != target.shape or pred.ndim < 2 or pred.numel() == 0:
        return FallThrough("shapes that we do not take")
    if pred.dtype != target.dtype or not pred.is_floating_point() or pred.device != target.device:
        return FallThrough("dtypes or devices that we do not take")
    bins = self.num_bins
    if bins < 6:
        return FallThrough("fewer than 6 bins")
    if self.kernel_type == "gaussian":
        if not hasattr(self, "_l2rfast_sigma"):  # reading it makes a GPU wait
            self._l2rfast_sigma = (bins - 1) / float((2 * self.preterm).sqrt())
        a, b = ((bins - 1) * image.clamp(0, 1) for image in (pred, target))
        joint = joint_histogram(a, b, bins=bins, window="gaussian", sigma=self._l2rfast_sigma)
    else:
        a, b = _in_bins(pred, bins), _in_bins(target.detach(), bins)  # a box has no slope
        joint = joint_histogram(a, b, bins=bins, window=("cubic", "box"))
    apart = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    ratio = (joint + self.smooth_nr) / (apart + self.smooth_dr)
    values: Tensor = -(joint * (ratio + self.smooth_dr).log()).sum((1, 2)).to(pred.dtype)
    return values if self.reduction == "none" else values.sum() if self.reduction == "sum" else values.mean()


class Warp(monai.networks.blocks.Warp):
    """MONAI's `Warp`. Bicubic sampling, jitter and images of one slice run MONAI's code."""

    forward = _warp


class DVF2DDF(monai.networks.blocks.DVF2DDF):
    """MONAI's `DVF2DDF`, whose steps are warps."""

    def __init__(self, num_steps: int = 7, mode: str = "bilinear", padding_mode: str = "zeros") -> None:
        super().__init__(num_steps, mode, padding_mode)
        self.warp_layer = Warp(mode=mode, padding_mode=padding_mode)


class LocalNormalizedCrossCorrelationLoss(monai.losses.LocalNormalizedCrossCorrelationLoss):
    """MONAI's local NCC, in 1-D, 2-D and 3-D, with every kernel and reduction."""

    forward = _local_ncc


class DiffusionLoss(monai.losses.DiffusionLoss):
    """MONAI's `DiffusionLoss`; with ``normalize``, or another reduction than the mean, MONAI's code runs."""

    forward = _diffusion


class BendingEnergyLoss(monai.losses.BendingEnergyLoss):
    """MONAI's `BendingEnergyLoss`; with ``normalize``, or another reduction than the mean, MONAI's code runs."""

    forward = _bending


class GlobalMutualInformationLoss(monai.losses.GlobalMutualInformationLoss):
    """MONAI's `GlobalMutualInformationLoss`, with both kernels and every reduction."""

    forward = _mutual_information


__all__ = [
    "DVF2DDF",
    "BendingEnergyLoss",
    "DiffusionLoss",
    "GlobalMutualInformationLoss",
    "LocalNormalizedCrossCorrelationLoss",
    "Warp",
]
