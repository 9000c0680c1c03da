"""What can be chosen of the training-free discrete registration, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from l2rfast import _check
from l2rfast.errors import InputError

from ..options import make_plain

AUTO = "auto"
METRICS = (AUTO, "lncc", "ssd", "mi", "mind")


@dataclass(frozen=True)
class DiscreteOptions:
    """Parameters of `register_discrete`; the defaults are the preset ``default``.

    Attributes:
        mind_radius, mind_dilation: of the MIND-SSC descriptor, in voxels.
        grid_spacing: voxels between the control points of the discrete search; at most a quarter of a side.
        search_radius: reach of the discrete search to each side, in control-point spacings.
        metric: distance of the refinement:

            ========  ==============================================================================================
            ``lncc``  local NCC, for images of one contrast
            ``ssd``   squared differences, for images of one contrast and one scale, once their variances are 1
            ``mi``    mutual information, for images of two contrasts or modalities
            ``mind``  squared differences of MIND-SSC features, for the same
            ``auto``  ``lncc`` where the two images are of one contrast, by what they have in common once the discrete
                      search has aligned them (`methods.contrast.one_contrast`), else ``mind``
            ========  ==============================================================================================

        window: side of the LNCC window, in voxels of the level; odd. Where it is more than a sixth of the longest side
            of the image, that is taken.
        refine_spacing: voxels between the points of the refined field, which works on images and features averaged
            over blocks of that size.
        coarse_iterations: steps of the refinement, on both images each, by blocks of twice that side, first.
        iterations: steps at refine_spacing.
        full_iterations: steps at full resolution, last; none for the metric ``"mind"``, whose features stay
            at refine_spacing: where ``"auto"`` comes to that, they are left out.
        rate: about the longest step, in voxels of the level.

    Lengths in voxels are of the shortest side of a voxel: along an axis of longer ones they are fewer (but for
    mind_radius and mind_dilation), so that they are about as many mm.

    ConvexAdam calls them, in this order, mind_r, mind_d, grid_sp, disp_hw, grid_sp_adam (refine_spacing) and
    selected_niter (iterations).
    """

    mind_radius: int = 1
    mind_dilation: int = 2
    grid_spacing: int = 6
    search_radius: int = 4
    metric: str = AUTO
    window: int = 21
    refine_spacing: int = 2
    coarse_iterations: int = 6
    iterations: int = 10
    full_iterations: int = 3
    rate: float = 1.3

    def __post_init__(self) -> None:
        make_plain(self)
        for name, least in _LEAST.items():
            _check.at_least(name, getattr(self, name), least)
        _check.choice("metric", self.metric, METRICS)
        if self.window % 2 == 0:
            raise InputError(f"window: expected an odd number, got {self.window}")
        if not (_check.is_number(self.rate) and self.rate > 0):
            raise InputError(f"rate: expected a positive number, got {self.rate!r}")
        if self.metric == "mind" and self.full_iterations:
            raise InputError("full_iterations: expected 0 with the metric mind, whose features stay at refine_spacing")


_LEAST = {
    "mind_radius": 0,
    "mind_dilation": 1,
    "grid_spacing": 2,
    "search_radius": 1,
    "window": 3,
    "refine_spacing": 1,
    "coarse_iterations": 0,
    "iterations": 0,
    "full_iterations": 0,
}

PRESETS = {
    "fast": DiscreteOptions(iterations=12, full_iterations=0),
    "default": DiscreteOptions(),
    "accurate": DiscreteOptions(iterations=14, full_iterations=10),
}


def choose(preset: str = "default", **changes: Any) -> DiscreteOptions:
    """The options of a preset (``fast``, ``default``, ``accurate``) with some of them changed.

    Raises:
        InputError: an unknown preset or option, or a value out of range.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    unknown = sorted(set(changes) - set(DiscreteOptions.__dataclass_fields__))
    if unknown:
        raise InputError(
            f"{unknown[0]}: no such option; expected one of {', '.join(DiscreteOptions.__dataclass_fields__)}"
        )
    if changes.get("metric") == "mind":
        changes.setdefault("full_iterations", 0)
    return replace(PRESETS[preset], **changes)
