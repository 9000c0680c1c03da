"""Training-free discrete registration: coupled convex search, then refinement.

ConvexAdam (Siebert et al., "Fast 3D registration with accurate optimisation and little learning for Learn2Reg
2021"; Heinrich et al., WBIR 2014): MIND-SSC features, a smoothed cost volume on a coarse grid of control points,
coupled convex optimisation forwards and backwards, inverse consistency. The refinement is another than the original's
Adam on the warp: smooth steps on both sides that are composed (`methods.refine`), at half and then at full resolution;
the fields that result have no folds (`methods.folds`). What moving does not cover has no weight; and all lengths are of
the shortest side of the voxels, so that along an axis of longer ones they are fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2rfast import correlation, coupled_convex, inverse_consistency, mind_ssc, warp

from ..contrast import one_contrast
from ..diffusion import stiffened
from ..folds import settled
from ..kept import Made
from ..landmarks import AROUND, both_sides, guided, toward
from ..method import Found, Pair
from ..refine import Fields, pool, refine, resampled
from ..similarity import (
    Distance,
    Weight,
    both_ways,
    lncc_distance,
    mi_distance,
    mind_distance,
    ssd_distance,
    summed,
    together,
    window_of,
)
from ..stages import Stages
from .options import AUTO, DiscreteOptions

BECAUSE = "metric_because"  # beside the options
LEVELS = "coarse", "half", "full"  # of the refinement
FEWEST = 4  # control points along an axis that is long enough
INTENSITY_DISTANCES = {"ssd": ssd_distance, "mi": mi_distance}
WIDE, NEAR = 4, 2  # reach of the search, in control points: by the headers alone, and after a start that was found
# Of the diffusion energy beside MIND: its features of two contrasts differ everywhere, and a field that explains all of
# that follows no anatomy.
STIFFNESS = 0.6
STAY = 1e-3  # cost of the square of a displacement, in control points, where nothing else tells


class Compared(NamedTuple):
    """Fixed and moving in one contrast, (1, 1, *spatial) each, and the `methods.discrete.options.Contrast`."""

    images: tuple[Tensor, Tensor]
    metric: str
    share: float


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
    spacings = o.grid_spacing, o.step_spacing, 2 * o.refine_spacing, o.refine_spacing, 1
    grid, step, *levels = (_blocks(voxels, size, pair.spacing) for voxels in spacings)

    def masks(blocks: Sequence[int]) -> list[Tensor | None]:
        return [None if mask is None else pool(mask, blocks) for mask in (pair.fixed_mask, pair.moving_mask)]

    stages.voxels = math.prod(size)
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
        weight, deviations = together(masks(grid)), [AROUND / side for side in _sides(grid, pair.spacing)]
        wanted = None if pair.landmarks is None else both_sides(pair.landmarks, features[0].shape[2:], grid, deviations)

        def searched(k: int) -> Tensor:
            cost = _cost(features[k], features[1 - k], radius, weight)
            return coupled_convex(cost if wanted is None else toward(cost, wanted[k]))

        field = searched(0)
        stages.advance(0.5)
        fields: Fields = inverse_consistency(field, searched(1))

        chosen: dict[str, Any] = {"search_radius": reach}
        if any(one.metric == AUTO for one in compared):
            blocks = levels[LEVELS.index("half")]
            aligned = resampled(fields, [s // b for s, b in zip(size, blocks, strict=True)], grid, blocks)[0]
            weight = Weight(*masks(blocks)).at(aligned)
            compared, why = zip(*(_chosen(one, blocks, weight, aligned) for one in compared), strict=True)
            metrics = [one.metric for one in compared]
            chosen |= {"metric": metrics[0] if len(metrics) == 1 else metrics, BECAUSE: "; ".join(filter(None, why))}
            if set(metrics) == {"mind"}:
                chosen["full_iterations"] = 0

    level = grid
    numbers = o.coarse_iterations, o.iterations, o.full_iterations
    apart = levels[0], step, levels[1]
    for name, target, between, iterations in zip(LEVELS, levels, apart, numbers, strict=True):
        used = [one for one in compared if name != "full" or one.metric != "mind"]  # whose features stay
        if not (iterations and used):
            continue
        with stages.stage(f"refinement, {' and '.join(dict.fromkeys(one.metric.upper() for one in used))}, {name}"):
            steps = _steps(used, target, between)
            of = steps if pair.landmarks is None else None  # landmarks pull at voxels
            every = [_distances(o, one, masks(target), target, pair.spacing, of) for one in used]
            shares = [one.share for one in used]
            distances = summed([there for there, _ in every], shares), summed([back for _, back in every], shares)
            del every
            shape, sides = [s // t for s, t in zip(size, target, strict=True)], _sides(target, pair.spacing)
            refined = refine(
                guided(distances, pair.landmarks, shape, target, sides),
                resampled(fields, shape, level, target),
                iterations=iterations,
                rate=o.rate,
                stages=stages,
                sides=sides,
                blocks=steps,
            )
            if refined is not None:
                fields, level = refined, target
            features.clear()  # as large as the images
            del distances, refined
    with stages.stage("displacement field"):
        # Nothing else holds what is settled: it is freed before there is the result.
        last = [fields if level == levels[-1] else resampled(fields, size, level, levels[-1])]
        del fields
        return Found(*settled(last.pop()), options=chosen)


def _steps(used: Sequence[Compared], blocks: Sequence[int], apart: Sequence[int]) -> list[int]:
    """Of voxels of a level, which are blocks of the image's, for how many there is one step, along each axis.

    Those of local NCC, whose gradient is smooth by its windows, are so far apart. That of the others is as rough as the
    images, and has one at every voxel.
    """
    wanted = apart if all(one.metric == "lncc" for one in used) else blocks
    return [max(1, step // block) for step, block in zip(wanted, blocks, strict=True)]


def _chosen(one: Compared, blocks: Sequence[int], weight: Tensor | None, field: Tensor) -> tuple[Compared, str]:
    """The metric that a field tells which aligns the images roughly, and why; that which is there unless auto."""
    if one.metric != AUTO:
        return one, ""
    fixed, moving = (pool(image, blocks) for image in one.images)
    alike, why = one_contrast(fixed, warp(moving, field), weight)
    return one._replace(metric="lncc" if alike else "mind"), f"{'one contrast' if alike else 'two contrasts'}: {why}"


def _searched(compared: Sequence[Compared], side: int, o: DiscreteOptions, blocks: Sequence[int]) -> Tensor:
    """The features of all contrasts of fixed (0) or moving (1), whose squared differences count by their shares."""
    features = [(_features(one.images[side], o, blocks), one.share) for one in compared]
    if len(features) == 1:
        return features[0][0]
    return torch.cat([values * share**0.5 for values, share in features], 1)


def _blocks(voxels: int, size: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Blocks of about the same length along each axis, so many voxels along that of the shortest: how many voxels."""
    unit = min(spacing)
    return [max(1, min(round(voxels * unit / mm), n // FEWEST)) for n, mm in zip(size, spacing, strict=True)]


def _sides(blocks: Sequence[int], spacing: Sequence[float]) -> list[float]:
    """Of blocks of voxels, in units of the shortest."""
    lengths = [block * mm for block, mm in zip(blocks, spacing, strict=True)]
    return [round(length / min(lengths), 3) for length in lengths]


def _distances(
    o: DiscreteOptions,
    one: Compared,
    masks: Sequence[Tensor | None],
    blocks: Sequence[int],
    spacing: Sequence[float],
    steps: Sequence[int] | None,
) -> tuple[Distance, Distance]:
    """Of fixed and moving in one contrast, averaged over blocks; local NCC's of steps on blocks of these."""
    sides = _sides(blocks, spacing)
    if one.metric == "mind":
        features = [_features(image, o, blocks) for image in one.images]
        return stiffened(both_ways(mind_distance, features, masks), STIFFNESS, sides)
    pooled = [pool(image, blocks) for image in one.images]
    if one.metric == "lncc":
        window = window_of(o.window, pooled[0].shape[2:], sides, steps)
        return both_ways(lncc_distance, pooled, masks, window, steps)
    return both_ways(INTENSITY_DISTANCES[one.metric], pooled, masks)


def _features(image: Tensor, o: DiscreteOptions, blocks: Sequence[int]) -> Tensor:
    """MIND-SSC, averaged over blocks."""
    shared = math.gcd(*blocks)
    return pool(mind_ssc(image, o.mind_radius, o.mind_dilation, pool=shared), [block // shared for block in blocks])


def _cost(fixed: Tensor, moving: Tensor, radius: Sequence[int], weight: Tensor | None) -> Tensor:
    """Of every displacement, in control points, at each of them: (1, *search, *grid)."""
    cost = correlation(fixed, moving, radius, smoothing=2)
    if weight is not None:
        axes = [torch.arange(-r, r + 1.0, device=cost.device) for r in radius]
        squares = sum(x.square() for x in torch.meshgrid(*axes, indexing="ij"))
        cost *= weight.view(1, *[1] * len(radius), *weight.shape[2:])
        cost += STAY * torch.as_tensor(squares).view(1, *cost.shape[1 : 1 + len(radius)], *[1] * len(radius))
    return cost
