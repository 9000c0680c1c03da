"""Refinement of a displacement field from coarse to fine, by whatever each contrast of two images is compared by.

The discrete method goes on so from its search, and a network's field is fine-tuned so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from l2rfast import mind_ssc

from ..diffusion import stiffened
from ..folds import settled
from ..landmarks import guided
from ..method import Pair
from ..refine import Fields, pool, refine, resampled
from ..similarity import (
    Distance,
    both_ways,
    lncc_distance,
    mi_distance,
    mind_distance,
    ssd_distance,
    summed,
    window_of,
)
from ..stages import Stages
from .options import DiscreteOptions

NAMES = "coarse", "half", "full"  # of the levels
FEWEST = 4  # control points along an axis that is long enough
INTENSITY_DISTANCES = {"ssd": ssd_distance, "mi": mi_distance}
# Of the diffusion energy beside MIND: its features of two contrasts differ everywhere, and a field that explains all of
# that follows no anatomy.
STIFFNESS = 0.6


class Compared(NamedTuple):
    """Fixed and moving in one contrast, (1, 1, *spatial) each, and the `methods.discrete.options.Contrast`."""

    images: tuple[Tensor, Tensor]
    metric: str
    share: float


def levels_of(o: DiscreteOptions, size: Sequence[int], spacing: Sequence[float]) -> list[list[int]]:
    """Of each of `NAMES` the blocks whose averages are compared, in voxels along each axis."""
    return [blocks_of(voxels, size, spacing) for voxels in (2 * o.refine_spacing, o.refine_spacing, 1)]


def refined(
    compared: Sequence[Compared], pair: Pair, o: DiscreteOptions, fields: Fields, level: Sequence[int], stages: Stages
) -> Fields:
    """Refine a field and its inverse.

    Args:
        compared: what is compared, and how.
        pair: its masks, spacing and landmarks count.
        o: its steps at every level, and what they are like.
        fields: (1, ndim, *spatial) each, in voxels of the level.
        level: the blocks that these are of.
        stages: times each level.

    Returns:
        (1, ndim, *fixed) each, in voxels of fixed, without folds.
    """
    size = pair.fixed.shape[2:]
    levels = levels_of(o, size, pair.spacing)
    numbers = o.coarse_iterations, o.iterations, o.full_iterations
    apart = levels[0], blocks_of(o.step_spacing, size, pair.spacing), levels[1]
    for name, target, between, iterations in zip(NAMES, levels, apart, numbers, strict=True):
        used = [one for one in compared if name != "full" or one.metric != "mind"]  # whose features stay
        if not (iterations and used):
            continue
        with stages.stage(f"refinement, {' and '.join(dict.fromkeys(one.metric.upper() for one in used))}, {name}"):
            steps = steps_of(used, target, between)
            of = steps if pair.landmarks is None else None  # landmarks pull at voxels
            every = [distances_of(o, one, masks_of(pair, target), target, pair.spacing, of) for one in used]
            shares = [one.share for one in used]
            distances = summed([there for there, _ in every], shares), summed([back for _, back in every], shares)
            del every
            shape, sides = [s // t for s, t in zip(size, target, strict=True)], sides_of(target, pair.spacing)
            better = refine(
                guided(distances, pair.landmarks, shape, target, sides),
                resampled(fields, shape, level, target),
                iterations=iterations,
                rate=o.rate,
                stages=stages,
                sides=sides,
                blocks=steps,
            )
            if better is not None:
                fields, level = better, target
            del distances, better
    with stages.stage("displacement field"):
        # Nothing else holds what is settled: it is freed before there is the result.
        last = [fields if level == levels[-1] else resampled(fields, size, level, levels[-1])]
        del fields
        return settled(last.pop())


def masks_of(pair: Pair, blocks: Sequence[int]) -> list[Tensor | None]:
    """Of fixed and of moving, averaged over blocks."""
    return [None if mask is None else pool(mask, blocks) for mask in (pair.fixed_mask, pair.moving_mask)]


def steps_of(used: Sequence[Compared], blocks: Sequence[int], apart: Sequence[int]) -> list[int]:
    """Of voxels of a level, which are blocks of the image's, for how many there is one step, along each axis.

    Those of local NCC, whose gradient is smooth by its windows, are so far apart. That of the others is as rough as the
    images, and has one at every voxel.
    """
    wanted = apart if all(one.metric == "lncc" for one in used) else blocks
    return [max(1, step // block) for step, block in zip(wanted, blocks, strict=True)]


def blocks_of(voxels: int, size: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Blocks of about the same length along each axis, so many voxels along that of the shortest: how many voxels."""
    unit = min(spacing)
    return [max(1, min(round(voxels * unit / mm), n // FEWEST)) for n, mm in zip(size, spacing, strict=True)]


def sides_of(blocks: Sequence[int], spacing: Sequence[float]) -> list[float]:
    """Of blocks of voxels, in units of the shortest."""
    lengths = [block * mm for block, mm in zip(blocks, spacing, strict=True)]
    return [round(length / min(lengths), 3) for length in lengths]


def distances_of(
    o: DiscreteOptions,
    one: Compared,
    masks: Sequence[Tensor | None],
    blocks: Sequence[int],
    spacing: Sequence[float],
    steps: Sequence[int] | None,
) -> tuple[Distance, Distance]:
    """Of fixed and moving in one contrast, averaged over blocks; local NCC's of steps on blocks of these."""
    sides = sides_of(blocks, spacing)
    if one.metric == "mind":
        features = [features_of(image, o, blocks) for image in one.images]
        return stiffened(both_ways(mind_distance, features, masks), STIFFNESS, sides)
    pooled = [pool(image, blocks) for image in one.images]
    if one.metric == "lncc":
        window = window_of(o.window, pooled[0].shape[2:], sides, steps)
        return both_ways(lncc_distance, pooled, masks, window, steps)
    return both_ways(INTENSITY_DISTANCES[one.metric], pooled, masks)


def features_of(image: Tensor, o: DiscreteOptions, blocks: Sequence[int]) -> Tensor:
    """MIND-SSC, averaged over blocks."""
    shared = math.gcd(*blocks)
    return pool(mind_ssc(image, o.mind_radius, o.mind_dilation, pool=shared), [block // shared for block in blocks])
