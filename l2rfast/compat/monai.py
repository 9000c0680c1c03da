"""MONAI's `Warp`, `DVF2DDF`, `DiffusionLoss` and local NCC."""

from __future__ import annotations

from typing import Any

import monai.losses
import monai.networks.blocks
from monai.config.deviceconfig import USE_COMPILED
from torch import Tensor

from .. import lncc
from ..losses import gradient_energy
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


__all__ = ["DVF2DDF", "DiffusionLoss", "LocalNormalizedCrossCorrelationLoss", "Warp"]
