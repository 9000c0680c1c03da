"""Training-free discrete registration: coupled convex search, then Adam.

ConvexAdam (Siebert et al., "Fast 3D registration with accurate optimisation and little learning for Learn2Reg
2021"; Heinrich et al., WBIR 2014): MIND-SSC features, a smoothed cost volume on a coarse grid of control points,
coupled convex optimisation forwards and backwards, inverse consistency, then Adam on the warp. Beyond the original,
the refinement goes on with local NCC, at half and then at full resolution; what moving does not cover has no weight;
and all lengths are of the shortest side of the voxels, so that along an axis of longer ones they are fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l2rfast import box_average, correlation, coupled_convex, inverse_consistency, mind_ssc

from ..method import Pair
from ..refine import Gradient, lncc_distance, mind_distance, pool, refine, resample_field
from ..stages import Stages
from .options import DiscreteOptions

FEWEST = 4  # control points along an axis that is long enough
STAY = 1e-3  # cost of the square of a displacement, in control points, where nothing else tells


def register_discrete(pair: Pair, options: DiscreteOptions, stages: Stages) -> Tensor:
    """Displacement field from a fixed to a moving image on the same grid.

    Args:
        pair: of zero mean and unit variance.
        options: see `DiscreteOptions`.
        stages: times the stages and reports their progress.

    Returns:
        (1, ndim, *spatial) in voxels: moving at x + disp(x) corresponds to fixed at x.
    """
    o, size, images = options, pair.fixed.shape[2:], (pair.fixed, pair.moving)
    grid, fine_grid, full = (_blocks(s, size, pair.spacing) for s in (o.grid_spacing, o.refine_spacing, 1))

    def weight(blocks: Sequence[int]) -> Tensor | None:
        return None if pair.covered is None else pool(pair.covered, blocks)

    with stages.stage("features"):
        fine = [_features(x, o, fine_grid) for x in images]
        if all(g % f == 0 for g, f in zip(grid, fine_grid, strict=True)):  # the fine blocks make up the coarse ones
            coarse = [pool(x, [g // f for g, f in zip(grid, fine_grid, strict=True)]) for x in fine]
        else:
            coarse = [_features(x, o, grid) for x in images]

    with stages.stage("discrete search"):
        sides = [g * mm / min(pair.spacing) for g, mm in zip(grid, pair.spacing, strict=True)]
        radius = [
            min(max(1, round(o.search_radius * o.grid_spacing / side)), o.search_radius, points - 1)
            for side, points in zip(sides, coarse[0].shape[2:], strict=True)
        ]
        field = _searched(coarse[0], coarse[1], radius, weight(grid))
        if o.inverse_consistency:
            stages.advance(0.5)
            field, _ = inverse_consistency(field, _searched(coarse[1], coarse[0], radius, weight(grid)))
    level = grid

    smoothness = {"mind": 0.9, "lncc": 0.45}
    if o.smoothness is not None:
        smoothness[o.metric] = o.smoothness

    def refined(metric: str, distance: Gradient, target: Sequence[int], iterations: int) -> Tensor:
        return refine(
            distance,
            resample_field(field, [s // t for s, t in zip(size, target, strict=True)], level, target),
            iterations=iterations,
            smoothness=smoothness[metric],
            rate=o.rate,
            advance=stages.advance,
            sides=_sides(target, pair.spacing),
        )

    mind_iterations = o.mind_iterations + (o.iterations if o.metric == "mind" else 0)
    if mind_iterations:
        with stages.stage("refinement, MIND"):
            distance = mind_distance(fine[0], fine[1], weight(fine_grid))
            fine.clear()  # as large as the images
            field, level = refined("mind", distance, fine_grid, mind_iterations), fine_grid
            del distance
    if o.metric == "lncc":
        for name, target, iterations in (("", fine_grid, o.iterations), (", full", full, o.full_iterations)):
            if iterations:
                with stages.stage(f"refinement, LNCC{name}"):
                    window = [2 * int(o.window / side / 2) + 1 for side in _sides(target, pair.spacing)]
                    distance = lncc_distance(
                        pool(pair.fixed, target), pool(pair.moving, target), window, weight(target)
                    )
                    field, level = refined("lncc", distance, target, iterations), target
    with stages.stage("displacement field"):
        field = resample_field(field, size, level, full)
        return box_average(field, o.smoothing // 2, passes=3) if o.smoothing else field


def _blocks(voxels: int, size: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Blocks of about the same length along each axis, so many voxels along that of the shortest: how many voxels."""
    unit = min(spacing)
    return [max(1, min(round(voxels * unit / mm), n // FEWEST)) for n, mm in zip(size, spacing, strict=True)]


def _sides(blocks: Sequence[int], spacing: Sequence[float]) -> list[float]:
    """Of blocks of voxels, in units of the shortest."""
    lengths = [block * mm for block, mm in zip(blocks, spacing, strict=True)]
    return [round(length / min(lengths), 3) for length in lengths]


def _features(image: Tensor, o: DiscreteOptions, blocks: Sequence[int]) -> Tensor:
    """MIND-SSC, averaged over blocks."""
    shared = math.gcd(*blocks)
    return pool(mind_ssc(image, o.mind_radius, o.mind_dilation, pool=shared), [block // shared for block in blocks])


def _searched(fixed: Tensor, moving: Tensor, radius: Sequence[int], weight: Tensor | None) -> Tensor:
    """Displacements of features, in control points."""
    cost = correlation(fixed, moving, radius, smoothing=2)
    if weight is not None:
        axes = [torch.arange(-r, r + 1.0, device=cost.device) for r in radius]
        squares = sum(x.square() for x in torch.meshgrid(*axes, indexing="ij"))
        cost *= weight.view(1, *[1] * len(radius), *weight.shape[2:])
        cost += STAY * torch.as_tensor(squares).view(1, *cost.shape[1 : 1 + len(radius)], *[1] * len(radius))
    return coupled_convex(cost)
