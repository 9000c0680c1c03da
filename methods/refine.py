"""Refinement of two displacement fields, there and back, by small smooth maps that are composed with them.

Both images move. Fixed is compared with moving as the field warps it, and moving with fixed as the inverse warps it;
each comparison gives a step on its own side, a = id + v there and b = id + w here, and the map f and its inverse g go
on together:

    f <- b^-1 o f o a        g <- a^-1 o g o b

so that exchanging the images exchanges the fields (`l2rfast.compose_steps`). Steps are bounded and smooth, as in
diffeomorphic demons, ANTs and FireANTs (Vercauteren et al., NeuroImage 2009; Avants et al., MedIA 2008; Jena et al.
2024), and may be given at fewer places than the fields: maps that do not fold compose to one that does not, up to what
sampling makes of it (see `methods.folds`).

Whatever touches the fields gives the same bits for any number of threads. PyTorch's sums over a whole tensor do not,
nor do its fused ``add(alpha=)`` and ``addcmul``, whose rounding depends on where a thread's share ends; separate
products, sums, quotients and roots are exact and do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from l2rfast import adam_step, affine_warp, block_average, box_average, compose_steps, digital_jacobian, warp
from l2rfast.filters import gaussian_filter

from .similarity import SLOPE, Distance
from .stages import Stages

# A displacement field (1, ndim, *spatial), from fixed to moving, and its inverse.
Fields = tuple[Tensor, Tensor]

PASSES = 2  # of the averages that smooth a step, before and after it is scaled
BESIDE = 2.0  # of blocks, as far as smoothing goes: as if they were off like voxels of such a side
MOMENTUM = 0.5  # what remains of the mean of the gradients at each step
# So many steps gain at least such a share of what those before them did, or they are the last. Steps swing.
STEADY, HARDLY = 5, 0.001
SHORTER = 0.5  # what steps become that made it worse
PRESSED, FREE = 0.1, 0.3  # least Jacobian determinants at which steps come to rest, and from which on they are whole


def pool(image: Tensor, size: int | Sequence[int]) -> Tensor:
    """Averages over blocks of ``size`` voxels along each axis; of blocks of one voxel the image itself."""
    sides = [size] * (image.ndim - 2) if isinstance(size, int) else list(size)
    if max(sides) == 1:
        return image
    return block_average(image, sides)


def resample_field(
    field: Tensor, size: Sequence[int], source: int | Sequence[int], target: int | Sequence[int]
) -> Tensor:
    """A field given at one level, at the voxels of another, in voxels of that one.

    Voxel i of a level of s voxels is the block of s voxels from s * i on, its centre at s * i + (s - 1) / 2.

    Args:
        field: (1, ndim, *spatial) in voxels of level ``source``.
        size: spatial size at level ``target``.
        source, target: voxels of the image per voxel of the level, along each axis if not along all.
    """
    s, t = (torch.tensor(sides).expand(field.shape[1]) for sides in (source, target))
    matrix = torch.cat([(t / s).diag(), (((t - 1) / 2 - (s - 1) / 2) / s)[:, None]], 1)[None].to(field.device)
    return affine_warp(field, matrix, size).div_(by_axis(t / s, field))


def resampled(fields: Fields, size: Sequence[int], source: int | Sequence[int], target: int | Sequence[int]) -> Fields:
    """See `resample_field`."""
    there, back = (resample_field(field, size, source, target) for field in fields)
    return there, back


def by_axis(values: Sequence[float] | Tensor, field: Tensor) -> Tensor:
    """One number for each axis, in the shape of something to multiply a field with."""
    return torch.as_tensor(values, dtype=field.dtype, device=field.device).view(1, -1, *[1] * (field.ndim - 2))


def refine(
    distances: tuple[Distance, Distance],
    fields: Fields,
    *,
    iterations: int,
    rate: float,
    stages: Stages,
    sides: Sequence[float] | None = None,
    blocks: Sequence[int] | None = None,
) -> Fields | None:
    """Minimise the distances of two images, each from the other's warp, by steps that are composed.

    Args:
        distances: give the gradient of the distance of fixed from warped moving at a field, and of moving from warped
            fixed at its inverse; both means over the voxels. Or the means of the gradients over the blocks.
        fields: (1, ndim, *spatial) each, a field and its inverse, in voxels of the level.
        iterations: steps on both sides.
        rate: about the longest step, in voxels of the level, of the shortest side.
        stages: is told the fraction of the iterations that is done, and knows how long there may be more.
        sides: of a voxel of the level, in units of the shortest; cubes when None. Steps and their smoothing are lengths
            in that unit.
        blocks: of voxels of the level, along each axis, for each of which there is one step; between their centres it
            goes on linearly. Of one voxel when None.

    Returns:
        The refined fields, in voxels of the level; nearly each other's inverse. After fewer steps where the distances
        no longer become less, or no time is left. None where they are more than at first in spite of shorter steps.
    """
    sides = [1.0] * fields[0].shape[1] if sides is None else sides
    there, back = fields
    del fields  # the caller may have kept them, or not
    blocks = [1] * len(sides) if blocks is None else blocks
    first, second = (_Steps(distance, rate, sides, blocks) for distance in distances)
    losses: list[float] = []
    for k in range(1, iterations + 1):
        if _at_rest(losses) or not stages.affords(there[0, 0].numel(), iterations - k + 1):
            break
        start = time.perf_counter()
        here, beyond = first.next(there), second.next(back)
        there = compose_steps(there, here, _inverse(beyond, blocks), blocks=blocks)
        back = compose_steps(back, beyond, _inverse(here, blocks), blocks=blocks)
        del here, beyond  # before there are the next ones
        losses.append(first.loss + second.loss)
        stages.took(time.perf_counter() - start, there[0, 0].numel())
        stages.advance(k / iterations)
        if losses[-1] > losses[0]:
            first.rate, second.rate = SHORTER * first.rate, SHORTER * second.rate
    return None if losses and losses[-1] > losses[0] else (there, back)


def _at_rest(losses: Sequence[float]) -> bool:
    """Whether the last steps gained hardly anything beside those before them."""
    if len(losses) <= STEADY:
        return False
    before = min(losses[:-STEADY])
    return before - min(losses[-STEADY:]) <= HARDLY * (losses[0] - before)


def _inverse(step: Tensor, blocks: Sequence[int]) -> Tensor:
    """Of a step on blocks of voxels, the inverse on the same: w with w(x) + step(x + w(x)) = 0.

    By the fixed-point iteration of Chen et al., "A simple fixed-point approach to invert a deformation
    field", Med Phys 2008, from -step once on: steps are short and smooth.
    """
    minus = -step
    return warp(minus, minus if max(blocks) == 1 else minus / by_axis(blocks, step))


class _Steps:
    """The steps on one side.

    The gradient is smoothed, scaled as by Adam (Kingma & Ba 2015), rate * mean / (root of the mean square + eps), but
    by one length for all axes, and smoothed again. As that is about as long however small the gradient is, Adam's eps
    of 1e-8 is nothing but where gradients are: two images that agree but for noise would be pulled apart by whole
    voxels. Here eps is what the gradient is where a displacement by ``rate`` is left to do, whatever the number of
    voxels, so that steps become as small as what is left; and the mean is over fewer steps, as one of ten overshoots by
    then.

    Where there is one step for a block of voxels, its gradient is their mean, and is smoothed little: the mean and the
    lines between steps smooth as well.
    """

    def __init__(self, distance: Distance, rate: float, sides: Sequence[float], blocks: Sequence[int]) -> None:
        self.distance, self.rate, self.sides, self.blocks, self.done = distance, rate, sides, blocks, 0
        self.smoothing = [BESIDE if block > 1 else side for block, side in zip(blocks, sides, strict=True)]
        self.before, self.after = (PASSES, PASSES) if max(blocks) == 1 else (1, 0)
        self.loss = math.inf  # before the last step
        self.sum: Tensor | None = None
        self.square: Tensor | None = None

    def next(self, field: Tensor) -> Tensor:
        """(1, ndim, *blocks) in voxels of the level, to go before the field."""
        self.done += 1
        unit = None if max(self.sides) == 1 else by_axis(self.sides, field)
        loss, gradient = self.distance(field)
        self.loss = float(loss)
        if gradient.shape == field.shape:
            gradient = pool(gradient, self.blocks)
        gradient = smoothed(gradient if unit is None else gradient.div_(unit), self.smoothing, self.before)
        step = smoothed(self._scaled(gradient, field), self.smoothing, self.after)
        return step if unit is None else step.div_(unit)

    def _scaled(self, gradient: Tensor, field: Tensor) -> Tensor:
        # Not a mean but a sum, of which the rate knows: the first is the gradient itself.
        self.sum = gradient if self.sum is None else self.sum.mul_(MOMENTUM).add_(gradient)
        square = torch.zeros_like(gradient[:, :1]) if self.square is None else self.square
        free = digital_jacobian(field, blocks=self.blocks)[:, None].sub_(PRESSED).div_(FREE - PRESSED).clamp_(0, 1)
        rate = self.rate * (1 - MOMENTUM) / (1 - MOMENTUM**self.done)
        eps = SLOPE * self.rate / field[0, 0].numel()
        self.square, step = adam_step(gradient, self.sum, square, free, done=self.done, rate=rate, eps=eps)
        return step


def smoothed(field: Tensor, sides: Sequence[float], passes: int) -> Tensor:
    """Averages of three neighbours along each axis, ``passes`` times; fewer of the neighbour's where it is further off:
    the variance is as that of the shortest side."""
    if max(sides) == 1:
        return box_average(field, 1, passes=passes)
    for _ in range(passes):
        if min(sides) == max(sides):  # as below, but for the border, and in one go
            beside = 1 / (3 * sides[0] ** 2)
            field = gaussian_filter(field, math.sqrt(-0.5 / math.log(beside / (1 - 2 * beside))))
            continue
        for axis, side in enumerate(sides, 2):
            last = field.shape[axis] - 1
            before = torch.cat([field.narrow(axis, 0, 1), field.narrow(axis, 0, last)], axis)
            after = torch.cat([field.narrow(axis, 1, last), field.narrow(axis, last, 1)], axis)
            field = field + (before + after - 2 * field) / (3 * side**2)
    return field
