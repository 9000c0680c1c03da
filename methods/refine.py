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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2rfast import _check, adam_step, affine_warp, block_average, box_average, compose_steps, digital_jacobian, warp
from l2rfast.filters import gaussian_filter
from l2rfast.kernels.common.constants import numbers

from .replay import Arriving, replayed
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
    sides = list(zip(*(_check.each_axis(sides, field.shape[1]) for sides in (source, target)), strict=True))
    steps = numbers([t / s for s, t in sides], field, torch.float32)
    starts = numbers([((t - 1) / 2 - (s - 1) / 2) / s for s, t in sides], steps)
    matrix = torch.cat([steps.diag(), starts[:, None]], 1)[None]
    return affine_warp(field, matrix, size).div_(by_axis(steps, field))


def resampled(fields: Fields, size: Sequence[int], source: int | Sequence[int], target: int | Sequence[int]) -> Fields:
    """See `resample_field`."""
    there, back = (resample_field(field, size, source, target) for field in fields)
    return there, back


def by_axis(values: Sequence[float] | Tensor, field: Tensor) -> Tensor:
    """One number for each axis, in the shape of something to multiply a field with."""
    given = values.to(field) if isinstance(values, Tensor) else numbers(values, field)
    return given.view(1, -1, *[1] * (field.ndim - 2))


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
        The refined fields, in voxels of the level; nearly each other's inverse. After fewer steps where no time is
        left, or the distances no longer become less, which of a GPU is known a step later. None where they are more
        than at first in spite of shorter steps.
    """
    sides = [1.0] * fields[0].shape[1] if sides is None else sides
    blocks = [1] * len(sides) if blocks is None else blocks
    state = State.at(fields, rate, blocks)
    del fields  # the caller may have kept them, or not
    voxels, arriving = state.there[0, 0].numel(), Arriving(iterations, state.there.device)
    step: Callable[[State], None] = Steps(distances, sides, blocks, state.there)
    for k in range(1, iterations + 1):
        if _at_rest(arriving.read()) or not stages.affords(voxels, iterations - k + 1):
            break
        start = time.perf_counter()
        if k == 2:
            step = replayed(step, state)
        step(state)
        arriving.send(state.loss)
        stages.took(time.perf_counter() - start, voxels)
        stages.advance(k / iterations)
    losses = arriving.read(all=True)
    return None if losses and losses[-1] > losses[0] else (state.there, state.back)


def _at_rest(losses: Sequence[float]) -> bool:
    """Whether the last steps gained hardly anything beside those before them."""
    if len(losses) <= STEADY:
        return False
    before = min(losses[:-STEADY])
    return before - min(losses[-STEADY:]) <= HARDLY * (losses[0] - before)


@dataclass
class State:
    """Where the steps of a level have come to, all of it on the device.

    Attributes:
        there, back: (1, ndim, *spatial), the fields.
        sum_there, sum_back: (1, ndim, *blocks), of the gradients, the older the less.
        square_there, square_back: (1, 1, *blocks), the mean of the gradients' squares.
        done: steps; this and the following are float64 without axes.
        left: the share that the sums still have of the first gradient.
        rate: of the next step.
        first, loss: of both sides, before the first step and before the last.
    """

    there: Tensor
    back: Tensor
    sum_there: Tensor
    sum_back: Tensor
    square_there: Tensor
    square_back: Tensor
    done: Tensor
    left: Tensor
    rate: Tensor
    first: Tensor
    loss: Tensor

    @classmethod
    def at(cls, fields: Fields, rate: float, blocks: Sequence[int]) -> State:
        """Before the first step."""
        there = fields[0]
        coarse = [n // block for n, block in zip(there.shape[2:], blocks, strict=True)]
        # To -0.0 anything is added without a change of its bits.
        sums = [there.new_full((1, there.shape[1], *coarse), -0.0) for _ in fields]
        squares = [there.new_zeros(1, 1, *coarse) for _ in fields]
        numbers = (there.new_full((), x, dtype=torch.float64) for x in (0.0, 1.0, rate, math.inf, math.inf))
        return cls(*fields, *sums, *squares, *numbers)


class Steps:
    """A step on both sides, by nothing but what the state holds: it can be recorded, see `methods.replay`.

    The gradient is smoothed, scaled as by Adam (Kingma & Ba 2015), rate * mean / (root of the mean square + eps), but
    by one length for all axes, and smoothed again. As that is about as long however small the gradient is, Adam's eps
    of 1e-8 is nothing but where gradients are: two images that agree but for noise would be pulled apart by whole
    voxels. Here eps is what the gradient is where a displacement by ``rate`` is left to do, whatever the number of
    voxels, so that steps become as small as what is left; and the mean is over fewer steps, as one of ten overshoots by
    then.

    Where there is one step for a block of voxels, its gradient is their mean, and is smoothed little: the mean and the
    lines between steps smooth as well.
    """

    def __init__(
        self, distances: tuple[Distance, Distance], sides: Sequence[float], blocks: Sequence[int], like: Tensor
    ) -> None:
        self.distances, self.blocks = distances, blocks
        self.smoothing = [BESIDE if block > 1 else side for block, side in zip(blocks, sides, strict=True)]
        self.before, self.after = (PASSES, PASSES) if max(blocks) == 1 else (1, 0)
        self.unit = None if max(sides) == 1 else by_axis(sides, like)
        self.block = None if max(blocks) == 1 else by_axis(blocks, like)

    def __call__(self, state: State) -> None:
        s = state
        s.done, s.left = s.done + 1, s.left * MOMENTUM
        loss, s.square_there, here = self._next(self.distances[0], s.there, s.sum_there, s.square_there, s)
        other, s.square_back, beyond = self._next(self.distances[1], s.back, s.sum_back, s.square_back, s)
        s.there = compose_steps(s.there, here, self._inverse(beyond), blocks=self.blocks)
        s.back = compose_steps(s.back, beyond, self._inverse(here), blocks=self.blocks)
        s.loss = loss.double() + other.double()
        s.first = torch.where(s.done == 1, s.loss, s.first)
        s.rate = torch.where(s.loss > s.first, SHORTER * s.rate, s.rate)

    def _next(
        self, distance: Distance, field: Tensor, total: Tensor, square: Tensor, s: State
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the next square, and a step (1, ndim, *blocks) in voxels of the level, to go before the field."""
        loss, gradient = distance(field)
        if gradient.shape == field.shape:
            gradient = pool(gradient, self.blocks)
        gradient = smoothed(gradient if self.unit is None else gradient.div_(self.unit), self.smoothing, self.before)
        # Not a mean but a sum, of which the rate knows: the first is the gradient itself.
        total.mul_(MOMENTUM).add_(gradient)
        free = digital_jacobian(field, blocks=self.blocks)[:, None].sub_(PRESSED).div_(FREE - PRESSED).clamp_(0, 1)
        rate, eps = s.rate * (1 - MOMENTUM) / (1 - s.left), SLOPE * s.rate / field[0, 0].numel()
        square, step = adam_step(gradient, total, square, free, done=s.done, rate=rate, eps=eps)
        step = smoothed(step, self.smoothing, self.after)
        return loss, square, step if self.unit is None else step.div_(self.unit)

    def _inverse(self, step: Tensor) -> Tensor:
        """Of a step on blocks of voxels, the inverse on the same: w with w(x) + step(x + w(x)) = 0.

        By the fixed-point iteration of Chen et al., "A simple fixed-point approach to invert a deformation
        field", Med Phys 2008, from -step once on: steps are short and smooth.
        """
        minus = -step
        return warp(minus, minus if self.block is None else minus / self.block)


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
