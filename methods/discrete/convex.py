"""Training-free discrete registration: coupled convex search, then refinement.

ConvexAdam (Siebert et al., "Fast 3D registration with accurate optimisation and little learning for Learn2Reg
2021"; Heinrich et al., WBIR 2014): MIND-SSC features, a smoothed cost volume on a coarse grid of control points,
coupled convex optimisation forwards and backwards, inverse consistency. The refinement is another than the original's
Adam on the warp: smooth steps on both sides that are composed (`methods.refine`), at half and then at full resolution;
the fields that result have no folds (`methods.folds`). What moving does not cover has no weight; and all lengths are of
the shortest side of the voxels, so that along an axis of longer ones they are fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2rfast import correlation, coupled_convex, inverse_consistency, warp

from ..contrast import one_contrast
from ..kept import Made
from ..landmarks import AROUND, both_sides, toward
from ..method import Found, Pair
from ..refine import Fields, pool, resampled
from ..similarity import Weight, together
from ..stages import Stages
from .levels import NAMES, Compared, blocks_of, features_of, levels_of, masks_of, refined, sides_of
from .options import AUTO, DiscreteOptions

BECAUSE = "metric_because"  # beside the options
WIDE, NEAR = 4, 2  # reach of the search, in control points: by the headers alone, and after a start that was found
STAY = 1e-3  # cost of the square of a displacement, in control points, where nothing else tells


def register_discrete(pair: Pair, options: DiscreteOptions, stages: Stages) -> Found:
    """Displacement field from a fixed to a moving image on the same grid, and its inverse.

    Args:
        pair: of zero mean and unit variance, in any number of contrasts, which one field aligns.
        options: see `DiscreteOptions`.
        stages: times the stages and reports their progress.

    Returns:
        (1, ndim, *spatial) each, in voxels: moving at x + disp(x) corresponds to fixed at x, and fixed at y +
        inverse(y) to moving at y. Neither has folds. With them the metric that was chosen, where that was ``"auto"``.
    """
    o, size = options, pair.fixed.shape[2:]
    compared: Sequence[Compared] = [
        Compared((pair.fixed[:, k : k + 1], pair.moving[:, k : k + 1]), *contrast)
        for k, contrast in enumerate(o.contrasts(pair.fixed.shape[1]))
        if contrast.share > 0
    ]
    grid = blocks_of(o.grid_spacing, size, pair.spacing)
    stages.voxels = pair.fixed[0, 0].numel()
    with stages.stage("features"):
        made = pair.made or Made()
        of_fixed = made.once("features", (o, *grid, pair.fixed.device), lambda: _searched(compared, 0, o, grid))
        features = [of_fixed, _searched(compared, 1, o, grid)]
        del of_fixed, made

    with stages.stage("discrete search"):
        sides = [g * mm / min(pair.spacing) for g, mm in zip(grid, pair.spacing, strict=True)]
        reach = o.search_radius or (NEAR if pair.near else WIDE)
        radius = [
            min(max(1, round(reach * o.grid_spacing / side)), reach, points - 1)
            for side, points in zip(sides, features[0].shape[2:], strict=True)
        ]
        weight, deviations = together(masks_of(pair, grid)), [AROUND / side for side in sides_of(grid, pair.spacing)]
        size_of_grid = features[0].shape[2:]
        wanted = None if pair.landmarks is None else both_sides(pair.landmarks, size_of_grid, grid, deviations)

        def searched(k: int) -> Tensor:
            cost = _cost(features[k], features[1 - k], radius, weight)
            return coupled_convex(cost if wanted is None else toward(cost, wanted[k]))

        field = searched(0)
        stages.advance(0.5)
        fields: Fields = inverse_consistency(field, searched(1))

        chosen: dict[str, Any] = {"search_radius": reach}
        if any(one.metric == AUTO for one in compared):
            blocks = levels_of(o, size, pair.spacing)[NAMES.index("half")]
            aligned = resampled(fields, [s // b for s, b in zip(size, blocks, strict=True)], grid, blocks)[0]
            weight = Weight(*masks_of(pair, blocks)).at(aligned)
            compared, why = zip(*(_chosen(one, blocks, weight, aligned) for one in compared), strict=True)
            metrics = [one.metric for one in compared]
            chosen |= {"metric": metrics[0] if len(metrics) == 1 else metrics, BECAUSE: "; ".join(filter(None, why))}
            if set(metrics) == {"mind"}:
                chosen["full_iterations"] = 0

    features.clear()  # as large as the images
    return Found(*refined(compared, pair, o, fields, grid, stages), options=chosen)


def _chosen(one: Compared, blocks: Sequence[int], weight: Tensor | None, field: Tensor) -> tuple[Compared, str]:
    """The metric that a field tells which aligns the images roughly, and why; that which is there unless auto."""
    if one.metric != AUTO:
        return one, ""
    fixed, moving = (pool(image, blocks) for image in one.images)
    alike, why = one_contrast(fixed, warp(moving, field), weight)
    return one._replace(metric="lncc" if alike else "mind"), f"{'one contrast' if alike else 'two contrasts'}: {why}"


def _searched(compared: Sequence[Compared], side: int, o: DiscreteOptions, blocks: Sequence[int]) -> Tensor:
    """The features of all contrasts of fixed (0) or moving (1), whose squared differences count by their shares."""
    features = [(features_of(one.images[side], o, blocks), one.share) for one in compared]
    if len(features) == 1:
        return features[0][0]
    return torch.cat([values * share**0.5 for values, share in features], 1)


def _cost(fixed: Tensor, moving: Tensor, radius: Sequence[int], weight: Tensor | None) -> Tensor:
    """Of every displacement, in control points, at each of them: (1, *search, *grid)."""
    cost = correlation(fixed, moving, radius, smoothing=2)
    if weight is not None:
        axes = [torch.arange(-r, r + 1.0, device=cost.device) for r in radius]
        squares = sum(x.square() for x in torch.meshgrid(*axes, indexing="ij"))
        cost *= weight.view(1, *[1] * len(radius), *weight.shape[2:])
        cost += STAY * torch.as_tensor(squares).view(1, *cost.shape[1 : 1 + len(radius)], *[1] * len(radius))
    return cost
