"""What can be chosen of the training-free discrete registration, and the presets."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from l2rfast import _check
from l2rfast.errors import InputError

from ..options import make_plain

AUTO = "auto"
METRICS = (AUTO, "lncc", "ssd", "mi", "mind")
OF_LNCC = {"window": any, "step_spacing": all}  # of the contrasts, whether one or all have to be compared by it


class Contrast(NamedTuple):
    """What one of several is compared by, and its share of the sum of all."""

    metric: str
    share: float


@dataclass(frozen=True)
class DiscreteOptions:
    """Parameters of `register_discrete`; the defaults are the preset ``default``.

    Attributes:
        mind_radius, mind_dilation: of the MIND-SSC descriptor, in voxels.
        grid_spacing: voxels between the control points of the discrete search; at most a quarter of a side.
        search_radius: reach of the discrete search to each side, in control-point spacings. None: 4, or 2 where a rigid
            or affine start was found in the images, which leaves less to find.
        metric: distance of the refinement:

            ========  ==============================================================================================
            ``lncc``  local NCC, for images of one contrast
            ``ssd``   squared differences, for images of one contrast and one scale, once their variances are 1
            ``mi``    mutual information, for images of two contrasts or modalities
            ``mind``  squared differences of MIND-SSC features, for the same
            ``auto``  ``lncc`` where the two images are of one contrast, by what they have in common once the discrete
                      search has aligned them (`methods.contrast.one_contrast`), else ``mind``
            ========  ==============================================================================================

            Or one for each contrast of the images.
        weights: of the contrasts of the images, not below 0, in the discrete search and in the refinement; alike when
            None.
        window: side of the LNCC window, in voxels of the level; odd. Where it is more than a sixth of the longest side
            of the image, that is taken.
        refine_spacing: voxels between the points of the refined field, which works on images and features averaged
            over blocks of that size.
        step_spacing: voxels between the points at which there is a step at refine_spacing, where all contrasts are
            compared by local NCC, linear between them: fewer take less time and are smoother. At full resolution it is
            refine_spacing.
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
    search_radius: int | None = None
    metric: str | tuple[str, ...] = AUTO
    weights: tuple[float, ...] | None = None
    window: int = 21
    refine_spacing: int = 2
    step_spacing: int = 4
    coarse_iterations: int = 6
    iterations: int = 8
    full_iterations: int = 2
    rate: float = 1.3

    def __post_init__(self) -> None:
        make_plain(self)
        for name, least in _LEAST.items():
            if getattr(self, name) is not None or name != "search_radius":
                _check.at_least(name, getattr(self, name), least, most=math.inf)
        for metric in self.metrics:
            _check.choice("metric", metric, METRICS)
        weights = (1.0,) if self.weights is None else self.weights
        usable = isinstance(weights, tuple) and all(_check.is_number(weight) and weight >= 0 for weight in weights)
        if not (usable and any(weights) and sum(weights) <= _MOST):
            raise InputError(f"weights: expected numbers, none below 0 and not all 0, got {self.weights!r}")
        if self.window % 2 == 0:
            raise InputError(f"window: expected an odd number, got {self.window}")
        if not (_check.is_number(self.rate) and self.rate > 0):
            raise InputError(f"rate: expected a positive number, got {self.rate!r}")
        if set(self.metrics) == {"mind"} and self.full_iterations:
            raise InputError("full_iterations: expected 0 with the metric mind, whose features stay at refine_spacing")

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.metric if isinstance(self.metric, tuple) else (self.metric,)

    def contrasts(self, number: int) -> list[Contrast]:
        """What is done with each contrast of the images; one metric is that of all.

        Raises:
            InputError: metrics or weights for another number of contrasts.
        """
        metrics = number * self.metrics if isinstance(self.metric, str) else self.metrics
        weights = number * (1.0,) if self.weights is None else self.weights
        for name, given in (("metric", metrics), ("weights", weights)):
            if len(given) != number:
                raise InputError(f"{name}: expected one for each contrast, {number}, got {len(given)}")
        return [Contrast(metric, weight / sum(weights)) for metric, weight in zip(metrics, weights, strict=True)]


_MOST = 1e300  # of weights: what float64 can add and divide by
_LEAST = {
    "mind_radius": 0,
    "mind_dilation": 1,
    "grid_spacing": 2,
    "search_radius": 1,
    "window": 3,
    "refine_spacing": 1,
    "step_spacing": 1,
    "coarse_iterations": 0,
    "iterations": 0,
    "full_iterations": 0,
}

PRESETS = {
    "fast": DiscreteOptions(full_iterations=0),
    "default": DiscreteOptions(),
    "accurate": DiscreteOptions(step_spacing=2, iterations=14, full_iterations=10),
}


def choose(preset: str = "default", **changes: Any) -> DiscreteOptions:
    """The options of a preset (``fast``, ``default``, ``accurate``) with some of them changed.

    Raises:
        InputError: an unknown preset or option, one that the metric has not, or a value out of range.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    unknown = sorted(set(changes) - set(DiscreteOptions.__dataclass_fields__))
    if unknown:
        raise InputError(
            f"{unknown[0]}: no such option; expected one of {', '.join(DiscreteOptions.__dataclass_fields__)}"
        )
    if isinstance(changes.get("weights"), str | os.PathLike):
        raise InputError(
            f"weights: a network's, and the method discrete has none, got {os.fspath(changes['weights'])!r}"
        )
    metric = changes.get("metric")
    if metric == "mind" or (isinstance(metric, list | tuple) and metric and all(one == "mind" for one in metric)):
        changes.setdefault("full_iterations", 0)
    options = replace(PRESETS[preset], **changes)
    if unused := idle(changes, options.metrics):
        others = [metric for metric in options.metrics if metric not in (AUTO, "lncc")]
        raise InputError(f"{unused[0]}: of the metric lncc, got it beside {', '.join(others)}")
    return options


def idle(given: Collection[str], metrics: Sequence[str]) -> list[str]:
    """Of the options that were given, those that come to nothing by these metrics, one for each contrast."""
    local = [metric in (AUTO, "lncc") for metric in metrics]
    return [name for name, needed in OF_LNCC.items() if name in given and not needed(local)]
