"""FireANTs' local NCC, and its samplers and warp composers, which are made of `F.grid_sample`."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import fireants.interpolator
import fireants.interpolator.grid_sample as samplers
import fireants.losses.cc
from torch import Tensor

from .. import lncc
from .patching import FallThrough, Library, With
from .torch import affine_grid, grid_sample

LIBRARY = Library("fireants", ">=1.4,<1.6")
_OURS = {"grid_sample": grid_sample, "affine_grid": affine_grid}
LIBRARY.uses(samplers, "F", **_OURS)
_WEIGHTINGS = {"rectangular": "box", "triangular": "triangular"}


@LIBRARY.replaces(fireants.losses.cc.LocalNormalizedCrossCorrelationLoss, "forward_util")
def _local_ncc(self: Any, pred: Tensor, target: Tensor) -> Tensor | FallThrough:
    if pred.ndim - 2 != self.ndim or pred.shape != target.shape or pred.numel() == 0:
        return FallThrough("shapes that we do not take")
    if pred.dtype != target.dtype or not pred.is_floating_point() or pred.device != target.device:
        return FallThrough("dtypes or devices that we do not take")
    if self.kernel_type not in _WEIGHTINGS or not self.unsigned:
        return FallThrough("a gaussian kernel, which FireANTs cuts to one side, or a signed correlation")
    if not (self.smooth_dr > 0 and self.smooth_nr >= 0) or self.reduction not in lncc.REDUCTIONS:
        return FallThrough("smooth_nr, smooth_dr or a reduction that we do not take")
    return -lncc.local_ncc(
        pred,
        target,
        window=self.kernel_size,
        weighting=_WEIGHTINGS[self.kernel_type],
        reduction=self.reduction,
        eps=self.smooth_dr,
        semantics="fireants",
        smooth_nr=self.smooth_nr,
    )


class LocalNormalizedCrossCorrelationLoss(fireants.losses.cc.LocalNormalizedCrossCorrelationLoss):
    """FireANTs' local NCC; a gaussian kernel or a signed correlation runs FireANTs' code."""

    forward_util = _local_ncc


def _on_ours(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """FireANTs' function, which finds our samplers where it looks for PyTorch's."""
    scope = {**vars(samplers), "F": With(samplers.F, _OURS)}
    return types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)


torch_grid_sampler_2d = _on_ours(samplers.torch_grid_sampler_2d)
torch_grid_sampler_3d = _on_ours(samplers.torch_grid_sampler_3d)
torch_warp_composer_2d = _on_ours(samplers.torch_warp_composer_2d)
torch_warp_composer_3d = _on_ours(samplers.torch_warp_composer_3d)
fireants_interpolator = copy.copy(fireants.interpolator.fireants_interpolator)
fireants_interpolator._registry = {
    fused: {name: _on_ours(function) if function and not fused else function for name, function in found.items()}
    for fused, found in fireants_interpolator._registry.items()
}

__all__ = [
    "LocalNormalizedCrossCorrelationLoss",
    "fireants_interpolator",
    "torch_grid_sampler_2d",
    "torch_grid_sampler_3d",
    "torch_warp_composer_2d",
    "torch_warp_composer_3d",
]
