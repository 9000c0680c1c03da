"""Training-free discrete registration: coupled convex search, then Adam.

ConvexAdam (Siebert et al., "Fast 3D registration with accurate optimisation and little learning for Learn2Reg
2021"; Heinrich et al., WBIR 2014): MIND-SSC features, a smoothed cost volume on a coarse grid of control points,
coupled convex optimisation forwards and backwards, inverse consistency, then Adam on the warp. Beyond the original,
the refinement goes on with local NCC, at half and then at full resolution.
"""

from __future__ import annotations

from torch import Tensor

from l2rfast import box_average, correlation, coupled_convex, inverse_consistency, mind_ssc
from l2rfast.errors import InputError

from ..refine import Gradient, lncc_distance, mind_distance, pool, refine, resample_field
from ..stages import Stages
from .options import DiscreteOptions


def register_discrete(fixed: Tensor, moving: Tensor, options: DiscreteOptions, stages: Stages) -> Tensor:
    """Displacement field from a fixed to a moving image on the same grid.

    Args:
        fixed, moving: (1, 1, *spatial) float32, of zero mean and unit variance.
        options: see `DiscreteOptions`.
        stages: times the stages and reports their progress.

    Returns:
        (1, ndim, *spatial) in voxels: moving at x + disp(x) corresponds to fixed at x.

    Raises:
        InputError: an image too small for the grid of control points.
    """
    o, size = options, fixed.shape[2:]
    spacing = max(o.grid_spacing, o.refine_spacing)
    if min(size) < 2 * spacing:
        raise InputError(
            f"fixed: expected at least {2 * spacing} voxels along each axis, two control points that far apart, "
            f"got {tuple(size)}"
        )
    with stages.stage("features"):
        fine = [mind_ssc(x, o.mind_radius, o.mind_dilation, pool=o.refine_spacing) for x in (fixed, moving)]
        if o.grid_spacing % o.refine_spacing == 0:  # the fine blocks make up the coarse ones
            coarse = [pool(x, o.grid_spacing // o.refine_spacing) for x in fine]
        else:
            coarse = [mind_ssc(x, o.mind_radius, o.mind_dilation, pool=o.grid_spacing) for x in (fixed, moving)]

    with stages.stage("discrete search"):
        field = coupled_convex(correlation(coarse[0], coarse[1], o.search_radius, smoothing=2))
        if o.inverse_consistency:
            stages.advance(0.5)
            backward = coupled_convex(correlation(coarse[1], coarse[0], o.search_radius, smoothing=2))
            field, _ = inverse_consistency(field, backward)
    level = o.grid_spacing

    smoothness = {"mind": 0.9, "lncc": 0.45}
    if o.smoothness is not None:
        smoothness[o.metric] = o.smoothness

    def refined(metric: str, distance: Gradient, target: int, iterations: int) -> Tensor:
        return refine(
            distance,
            resample_field(field, [s // target for s in size], level, target),
            iterations=iterations,
            smoothness=smoothness[metric],
            rate=o.rate,
            advance=stages.advance,
        )

    mind_iterations = o.mind_iterations + (o.iterations if o.metric == "mind" else 0)
    if mind_iterations:
        with stages.stage("refinement, MIND"):
            distance = mind_distance(*fine)
            fine.clear()  # as large as the images
            field, level = refined("mind", distance, o.refine_spacing, mind_iterations), o.refine_spacing
            del distance
    if o.metric == "lncc":
        for name, target, iterations in (("", o.refine_spacing, o.iterations), (", full", 1, o.full_iterations)):
            if iterations:
                with stages.stage(f"refinement, LNCC{name}"):
                    distance = lncc_distance(pool(fixed, target), pool(moving, target), o.window)
                    field, level = refined("lncc", distance, target, iterations), target
    with stages.stage("displacement field"):
        field = resample_field(field, size, level, 1)
        return box_average(field, o.smoothing // 2, passes=3) if o.smoothing else field
