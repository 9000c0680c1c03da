"""Rigid and affine maps as numbers to descend along, and how two images agree at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from l2rfast import affine_warp, box_average, local_ncc, mind_ssc
from l2rfast.errors import InputError
from l2rfast.losses import mutual_information

from .translations import Placed, pooled

MOMENTUM = 0.9
BINS = 32  # of the histograms of mutual information
WINDOW = 5  # of the local NCC, cells
STIFFNESS = 40.0  # share of the distance that the square of a strain costs, times that of the number of cells across
LEAST_LEFT = 0.05  # of the fixed grid that moving has to cover, or of as much as it can

# Of warped moving, (1, C, *spatial), and the weight of every voxel, (1, 1, *spatial), to a fixed image.
Distance = Callable[[Tensor, Tensor], Tensor]


class World:
    """The map of a pose: (ndim, ndim + 1), the numbers of which the exponential is the linear part, and the
    translation in mm, along the axes of fixed.

    Args:
        kind: where it is affine, any numbers; else those of a rotation.
        centre: (ndim,), about which it turns.
        axes: (ndim, ndim), of fixed, orthonormal columns.
    """

    def __init__(self, kind: str, centre: Tensor, axes: Tensor) -> None:
        self.affine, self.centre, self.axes = kind == "affine", centre, axes

    def matrix(self, pose: Tensor) -> Tensor:
        """(ndim + 1, ndim + 1): place of fixed -> place of moving."""
        ndim = len(pose)
        numbers = pose[:, :ndim] if self.affine else (pose[:, :ndim] - pose[:, :ndim].T) / 2
        one = torch.eye(ndim, dtype=pose.dtype, device=pose.device)
        linear = one + self.axes @ (torch.matrix_exp(numbers) - one) @ self.axes.T  # of zeros, exactly one
        offset = self.centre + self.axes @ pose[:, ndim] - linear @ self.centre
        last = torch.eye(ndim + 1, dtype=pose.dtype, device=pose.device)[-1:]
        return torch.cat([torch.cat([linear, offset[:, None]], 1), last])

    def pose(self, matrix: Tensor) -> Tensor:
        """Of a rigid map: what `matrix` makes of it is that."""
        linear = self.axes.T @ matrix[:-1, :-1] @ self.axes
        offset = self.axes.T @ (matrix[:-1, :-1] @ self.centre + matrix[:-1, -1] - self.centre)
        return torch.cat([_logarithm(linear), offset[:, None]], 1)

    def scales(self, sides: Tensor, radius: float) -> Tensor:
        """(ndim, ndim + 1): what of a pose moves places that far from the centre by one cell, its sides along the axes
        of fixed."""
        turns = (sides / radius)[:, None].expand(-1, len(sides))
        if not self.affine:  # two axes at once
            turns = 2 / (turns**-2 + turns.T**-2).sqrt()
        return torch.cat([turns, sides[:, None]], 1)


class Level:
    """Two images at one resolution, and how they agree at a pose.

    Args:
        images: fixed and moving.
        world: gives poses their meaning.
        spacing: of the cells, in mm.
        metric: one of `METRICS`.
    """

    def __init__(self, images: Sequence[Placed], world: World, spacing: float, metric: str) -> None:
        self.world = world
        fixed, moving = (pooled(image, spacing) for image in images)
        self.features, to = METRICS[metric]
        self.distance = to(self.features(fixed.image))
        self.moving, self.from_cells, self.to_cells = moving.image, fixed.affine, moving.affine
        self.size, self.fixed_mask, self.moving_mask = fixed.image.shape[2:], fixed.mask, moving.weight
        # The finer of the two along every axis of fixed.
        both = [torch.linalg.inv(cells[:-1, :-1]) @ world.axes for cells in (self.from_cells, self.to_cells)]
        self.sides = 1 / torch.stack(both).norm(dim=1).amax(0)
        # Moving may be small beside fixed, and little of fixed may count.
        whole = fixed._replace(mask=None).volume
        self.least = LEAST_LEFT * min(fixed.volume / whole, moving.volume / whole)

    def sampled(self, image: Tensor, cells: Tensor, pose: Tensor, padding: str = "border") -> Tensor:
        """An image that has those cells, on the grid of fixed."""
        matrix = torch.linalg.solve(cells, self.world.matrix(pose) @ self.from_cells)[None, :-1]
        return affine_warp(image, matrix.to(image), self.size, padding=padding)

    def strained(self, pose: Tensor) -> Tensor:
        """How much worse the distance has to count for what a pose strains, as a share of it.

        The fewer cells there are across an image, the less it says of lengths there: of three slices, those that are
        stretched until only one is covered agree best.
        """
        ndim = len(pose)
        strain, share = (pose[:, :ndim] + pose[:, :ndim].T) / 2, pose.new_zeros(())
        to_moving = self.world.matrix(pose.detach())[:-1, :-1] @ self.world.axes
        grids = ((self.from_cells, self.size, self.world.axes), (self.to_cells, self.moving.shape[2:], to_moving))
        for cells, size, axes in grids:
            across = torch.linalg.solve(cells[:-1, :-1], axes)  # rows along the normals of the grid's planes
            per_cell = across.norm(dim=1) * torch.tensor(size, dtype=pose.dtype)
            share = share + (across / per_cell[:, None] @ strain).square().sum()
        return STIFFNESS * share

    def covered(self, pose: Tensor) -> Tensor:
        """(1, 1, *spatial): how much of every cell of fixed counts in both images."""
        inside = self.sampled(self.moving_mask, self.to_cells, pose, "zeros")
        return inside if self.fixed_mask is None else inside * self.fixed_mask

    def information(self, pose: Tensor) -> float:
        """Mutual information times what is covered of fixed, in nats mm^ndim; 0 where that is hardly anything."""
        inside = self.covered(pose)
        if float(inside.mean()) < self.least:
            return 0.0
        volume = float(inside.double().sum()) * float(self.from_cells.det().abs())
        return -volume * float(self.distance(self.features(self.sampled(self.moving, self.to_cells, pose)), inside))

    def best(self, poses: Sequence[Tensor], hardly: float = 0.0) -> Tensor:
        """The pose at which they agree most, where moving covers fixed at all of them; those that leave hardly anything
        of what the ones before them cover are out. The first, where that is hardly better, by such a share of it.

        Raises:
            InputError: there is hardly any overlap at the first.
        """
        inside, others = self.covered(poses[0]), poses[1:]
        if float(inside.mean()) < self.least:
            raise InputError("init: expected images that can be aligned, but hardly anything of them overlaps")
        poses = [poses[0]]
        for pose in others:
            both = torch.minimum(inside, self.covered(pose))
            if float(both.mean()) >= self.least:
                inside, poses = both, [*poses, pose]
        seen = [self.features(self.sampled(self.moving, self.to_cells, pose)) for pose in poses]
        distances = [float(self.distance(image, inside)) for image in seen]
        worth = abs(distances[0])
        distances = [d + worth * float(self.strained(pose)) for d, pose in zip(distances, poses, strict=True)]
        least = min(distances)
        return poses[0] if distances[0] - least <= hardly * abs(least) else poses[distances.index(least)]

    def descended(self, pose: Tensor, rate: float, steps: int, extent: float) -> Iterator[Tensor]:
        """The pose after each step, as long as the images overlap. Features turn with the image: they are of moving as
        it lies at the start.

        One length of the gradient, that of its average square, sets the steps of all numbers, unlike Adam's: what makes
        no difference, as a shear across a slab, does not drift.
        """
        scale = self.world.scales(self.sides, extent / 4)
        image, cells = self.moving, self.to_cells
        if self.features is not _same:
            image = self.features(self.sampled(image, cells, pose))
            cells = self.world.matrix(pose) @ self.from_cells
        start, numbers = pose, torch.zeros_like(pose)
        mean, square, inside, worth = torch.zeros_like(pose), 0.0, self.covered(pose), 0.0
        for step in range(steps):
            with torch.enable_grad():
                numbers.requires_grad_()
                moved = self.sampled(image, cells, start + scale * numbers)
                distance = self.distance(moved, inside)
                worth = worth or abs(float(distance.detach()))
                (gradient,) = torch.autograd.grad(distance + worth * self.strained(start + scale * numbers), numbers)
            mean = MOMENTUM * mean + (1 - MOMENTUM) * gradient
            square += float(gradient.square().mean())
            if not square > 0:
                return
            length = (square / (step + 1)) ** 0.5 * (1 - MOMENTUM ** (step + 1))
            numbers = numbers.detach() - rate * 0.1 ** (step / steps) / length * mean
            pose = start + scale * numbers
            inside = self.covered(pose)
            if float(inside.mean()) < self.least:
                return
            yield pose


def _logarithm(rotation: Tensor) -> Tensor:
    """The antisymmetric matrix of which a rotation by less than half a turn is the exponential."""
    odd, ndim = (rotation - rotation.T) / 2, len(rotation)
    sine = odd.norm() / 2**0.5
    angle = torch.atan2(sine, (rotation.trace() - (ndim - 2)) / 2)
    return odd * (angle / sine) if sine > 0 else odd


def _mutual(fixed: Tensor) -> Distance:
    return lambda moving, inside: -mutual_information(fixed, moving, bins=BINS, weight=inside)


def _local(fixed: Tensor) -> Distance:
    return lambda moving, inside: -local_ncc(fixed, moving, window=WINDOW, mask=inside > 0.5)


def _squares(fixed: Tensor) -> Distance:
    return lambda moving, inside: ((moving - fixed).square() * inside).mean() / inside.mean()


def _same(image: Tensor) -> Tensor:
    return image


def _descriptors(image: Tensor) -> Tensor:
    """Averaged, or squared differences would be least where interpolation takes most of the noise: between voxels."""
    return box_average(mind_ssc(image, radius=1, dilation=1))


# By name, what is compared, and how.
METRICS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Distance]]] = {
    "mi": (_same, _mutual),
    "lncc": (_same, _local),
    "mind": (_descriptors, _squares),
}
