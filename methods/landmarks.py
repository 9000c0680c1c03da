"""Points of both images that belong together: where they lie guides a registration.

At a point the displacement that is wanted is known. It takes the place of what the images say there, the less the
further away, by a Gaussian: in the cost of the discrete search, and in the gradient by which the field and its inverse
are refined. There it is as that of images whose displacement is as far from right, by one voxel at most, so that steps
are whole until a point is nearly there, and nothing once it is. Where pairs contradict each other it is their mean; and
as nothing but the steps is theirs, maps do not fold whatever pairs say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2rfast import _check
from l2rfast.errors import InputError, notice
from l2rfast.kernels.common.constants import numbers
from l2rfast.world import at_points

from .similarity import SLOPE, Distance

DEVIATION = 2.0  # of the Gaussian where fields are refined, in voxels of the level along the shortest side
AROUND = 1.0  # of that in the discrete search, in control points
REACH = 3  # deviations
FEWEST = 4  # pairs that a start is made of


class Landmarks(NamedTuple):
    """Attributes:
    fixed, moving: (M, ndim) float64, pairwise, in voxels: each of its image, or both of the fixed one's grid, moving's
        as it lies there before any deformation.
    weight: how much they count beside the images: 1 replaces at a point what these say, 0 does nothing.
    """

    fixed: Tensor
    moving: Tensor
    weight: float


def checked(landmarks: Any, weight: Any, shapes: Sequence[Sequence[int]]) -> Landmarks | None:
    """Landmarks as a user gives them, without those that lie outside of their image, which is said by `notice`.

    Args:
        landmarks: points of fixed and of moving, a tensor or array (M, ndim) each, in voxels; None for none.
        weight: see `Landmarks`.
        shapes: of the images.

    Returns:
        None where nothing is to guide.

    Raises:
        InputError: not two sets of as many finite points, a weight that is no number from 0 on, or without landmarks.
    """
    weight = _check.not_negative("landmark_weight", weight)
    if landmarks is None:
        if weight != 1:
            raise InputError(f"landmark_weight: expected landmarks to weigh, got {weight:g} and none")
        return None
    ndim = len(shapes[0])
    expected = f"landmarks: expected points of fixed and of moving, two tensors (M, {ndim})"
    try:
        fixed, moving = (torch.as_tensor(points).detach().cpu().double() for points in landmarks)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{expected}, got {type(landmarks).__name__}") from error
    if fixed.shape != moving.shape or fixed.ndim != 2 or fixed.shape[1] != ndim or not len(fixed):
        raise InputError(f"{expected}, got {tuple(fixed.shape)} and {tuple(moving.shape)}")
    if not (fixed.isfinite().all() and moving.isfinite().all()):
        raise InputError("landmarks: expected finite points, got NaN or infinity")
    inside = _inside(fixed, shapes[0]) & _inside(moving, shapes[1])
    if not inside.all():
        left = len(inside) - int(inside.sum())
        notice(f"landmarks: {left} of {len(inside)} pairs have a point outside of its image, and do not guide")
    return Landmarks(fixed[inside], moving[inside], weight) if weight and inside.any() else None


def guided(
    distances: tuple[Distance, Distance],
    landmarks: Landmarks | None,
    size: Sequence[int],
    blocks: Sequence[int],
    sides: Sequence[float],
) -> tuple[Distance, Distance]:
    """Distances of two images, by which landmarks are brought to each other as well.

    Args:
        distances: of fixed and of moving from the other's warp, see `methods.similarity`.
        landmarks: both of the fixed grid; None for none.
        size: of the level, in its voxels.
        blocks: voxels of the image per voxel of the level, along each axis.
        sides: of a voxel of the level, in units of the shortest.
    """
    if landmarks is None:
        return distances
    wanted = both_sides(landmarks, size, blocks, [DEVIATION / side for side in sides])
    one, other = (_Guided(*both, sides) for both in zip(distances, wanted, strict=True))
    return one, other


def fitted(fixed: Tensor, moving: Tensor) -> Tensor | None:
    """The rigid map, (ndim + 1, ndim + 1), that takes places closest to others (Umeyama, IEEE TPAMI 1991).

    Args:
        fixed, moving: (M, ndim) float64, pairwise.

    Returns:
        Place of fixed -> place of moving; None of fewer than four pairs, or of ones along a line.
    """
    ndim = fixed.shape[1]
    if len(fixed) < FEWEST:
        return None
    centres = fixed.mean(0), moving.mean(0)
    u, sizes, vh = torch.linalg.svd((moving - centres[1]).T @ (fixed - centres[0]))
    if not float(sizes[ndim - 2]) > 1e-6 * float(sizes[0]):
        return None
    u[:, -1] *= torch.linalg.det(u @ vh).sign()  # no mirror
    matrix = torch.eye(ndim + 1, dtype=torch.float64)
    matrix[:-1, :-1] = u @ vh
    matrix[:-1, -1] = centres[1] - matrix[:-1, :-1] @ centres[0]
    return matrix


class _Guided:
    """A `methods.similarity.Distance` by which the points of one side are brought where they are wanted as well."""

    def __init__(self, distance: Distance, wanted: Wanted, sides: Sequence[float]) -> None:
        self.distance, self.wanted, self.sides = distance, wanted, sides

    def __call__(self, field: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.distance(field)
        w, sides = self.wanted.beside(field), numbers(self.sides, field)
        if not len(w.points):
            return value, gradient
        gradient.mul_(w.rest.to(field))
        missing = (at_points(field, w.points.to(field)) - w.by.to(field)) * sides
        length = missing.norm(dim=1, keepdim=True)
        pull = missing / length.clamp(min=1) * sides * (SLOPE / field[0, 0].numel())
        w.add(gradient, pull)
        # Of which the pull of a point is the gradient: a parabola that goes on as a line.
        energy = torch.where(length < 1, length.square() / 2, length - 0.5).mean()
        return value + SLOPE * energy, gradient


class Wanted:
    """The displacements that are wanted at points of one side, at one level.

    Args:
        points, others: (M, ndim), of this side and of the other one, in voxels of the image.
        weight: see `Landmarks`.
        size, blocks: see `guided`.
        deviations: of the Gaussian along each axis, in voxels of the level.

    Attributes:
        points, by: (M, ndim) float64, in voxels of the level: those on its grid, and how far away the others are.
        rest: (1, 1, *size), the share that the images have at every voxel; the points have what is left of 1.
    """

    def __init__(
        self,
        points: Tensor,
        others: Tensor,
        weight: float,
        size: Sequence[int],
        blocks: Sequence[int],
        deviations: Sequence[float],
    ) -> None:
        block = torch.tensor(blocks, dtype=torch.float64)
        here = (points - (block - 1) / 2) / block
        inside = _inside(here, size)
        self.points, self.by = here[inside], ((others - points) / block)[inside]
        self.kernels = [_gaussian(point, size, deviations) for point in self.points.tolist()]
        total = torch.zeros(1, 1, *size)
        for place, kernel in self.kernels:
            total[place] += weight * kernel
        self.rest = 1 - total.clamp(max=1)
        for place, kernel in self.kernels:
            kernel.mul_(weight).div_(total[place].clamp(min=1))

    def beside(self, field: Tensor) -> Wanted:
        """Itself, from now on on the device of a field."""
        if self.rest.device != field.device:
            self.points, self.by, self.rest = (x.to(field.device) for x in (self.points, self.by, self.rest))
            self.kernels = [(place, kernel.to(field.device)) for place, kernel in self.kernels]
        return self

    def add(self, field: Tensor, values: Tensor) -> None:
        """Add a value for every point, (M, C), to a field (1, C, *size), by the share that it has there."""
        for value, (place, kernel) in zip(values, self.kernels, strict=True):
            field[place] += value.view(1, -1, *[1] * (field.ndim - 2)) * kernel.to(field)


def both_sides(
    landmarks: Landmarks, size: Sequence[int], blocks: Sequence[int], deviations: Sequence[float]
) -> tuple[Wanted, Wanted]:
    """What is wanted of the field, at the points of fixed, and of its inverse, at those of moving; see `Wanted`."""
    (fixed, moving, weight), level = landmarks, (size, blocks, deviations)
    return Wanted(fixed, moving, weight, *level), Wanted(moving, fixed, weight, *level)


def toward(cost: Tensor, wanted: Wanted) -> Tensor:
    """A cost volume (1, *search, *size), in its own memory: near points a displacement costs the square of what is then
    missing, in control points."""
    size = wanted.rest.shape[2:]
    ndim = len(size)
    cost *= wanted.rest.to(cost).view(1, *[1] * ndim, *size)
    pulls = torch.zeros(1, ndim + 1, *size).to(cost)
    wanted.add(pulls, torch.cat([torch.ones(len(wanted.by), 1), wanted.by], 1).to(cost))
    for axis, search in enumerate(cost.shape[1 : 1 + ndim]):
        steps = torch.arange(search).to(cost).sub_(search // 2).view(-1, *[1] * (2 * ndim - 1 - axis))
        # (step - wanted)^2, without what is alike for all steps.
        cost += steps.square() * pulls[0, 0] - 2 * steps * pulls[0, 1 + axis]
    return cost


def _gaussian(
    point: Sequence[float], size: Sequence[int], deviations: Sequence[float]
) -> tuple[tuple[slice, ...], Tensor]:
    """Where on a grid one about a point is, 1 at the point: the place in (1, C, *size), and its values there."""
    place, values = [slice(None), slice(None)], torch.ones(1)
    for x, n, deviation in zip(point, size, deviations, strict=True):
        first = max(0, math.ceil(x - REACH * deviation))
        last = max(first + 1, min(n, math.floor(x + REACH * deviation) + 1))
        first = min(first, n - 1)
        along = torch.arange(first, last, dtype=torch.float64)
        values = values[..., None] * (-0.5 * ((along - x) / deviation).square()).exp().float()
        place.append(slice(first, last))
    return tuple(place), values[None]


def _inside(points: Tensor, size: Sequence[int]) -> Tensor:
    """(M,) bool: on a grid, the outer halves of its voxels included."""
    return ((points >= -0.5) & (points <= torch.tensor(size) - 0.5)).all(1)
