"""Initialisation: a rigid or affine map of the world that brings moving near fixed, found over a few resolutions.

A map takes places of fixed to places of moving: y = L (x - c) + c + t, c the centre of what is in fixed. It is found by
steepest descent with momentum on t and on the numbers of which the exponential is L, the gradient through
`l2rfast.affine_warp`. Lengths are in cells of the resolution, so that it does not matter whether scans are of
a cell or of a whale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast import affine_warp, box_average, local_ncc, mind_ssc
from l2rfast.errors import InputError
from l2rfast.io import Volume, axes_in_itk, voxel_to_voxel
from l2rfast.losses import mutual_information

from .intensities import robust_range
from .stages import Stages

NONE, AUTO = "none", "auto"
KINDS = (NONE, "moments", "rigid", "affine")
WIDEST_ANGLE, LEAST_OVERLAP = 10.0, 0.5  # in degrees, and of the fixed grid: what headers that agree have


class Descent(NamedTuple):
    """Attributes:
    cells: how many there are along the longest side of fixed.
    rate: of the first step, in cells; that of the last is a tenth.
    steps: how many.
    """

    cells: int
    rate: float
    steps: int


DESCENTS = (Descent(24, 0.5, 60), Descent(48, 0.5, 40), Descent(48, 0.1, 20))
FEWEST = 8  # cells along an axis that has as many voxels: slabs keep their slices
MOMENTUM = 0.9
BINS = 32  # of the histograms of mutual information
WINDOW = 5  # of the local NCC, cells
LEAST_CONTRAST = 0.1  # to the background, of the range of intensities
LEAST_LEFT = 0.05  # of the fixed grid that moving has to cover, or of as much as it can

# Of warped moving, (1, C, *spatial), and the weight of every voxel, (1, 1, *spatial), to a fixed image.
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Initial:
    """Where a registration starts.

    Attributes:
        kind: one of ``"none"``, ``"moments"``, ``"rigid"``, ``"affine"``.
        why: in words.
        matrix: (4, 4): place of fixed -> place of moving, in mm.
    """

    kind: str
    why: str
    matrix: np.ndarray

    def moved(self, moving: Volume) -> Volume:
        """Moving where the map puts it: with a header by which it lies on fixed."""
        return Volume(moving.data, np.linalg.solve(self.matrix, moving.affine))


NO_CHANGE = Initial(NONE, "asked for", np.eye(4))


def initialise(fixed: Volume, moving: Volume, kind: str, metric: str, device: torch.device, stages: Stages) -> Initial:
    """Find where a registration is to start.

    Args:
        fixed, moving: 2-D or 3-D.
        kind: ``"none"``; ``"moments"``: the centres of what is in them meet; ``"rigid"``; ``"affine"``; or ``"auto"``:
            none where the headers agree, else affine.
        metric: ``"mi"`` (mutual information), ``"lncc"`` or ``"mind"``.
        device: where to compute.
        stages: times it.

    Raises:
        InputError: an unknown kind or metric, or images that it cannot align.
    """
    if kind not in (AUTO, *KINDS):
        raise InputError(f"init: expected one of {', '.join((AUTO, *KINDS))}, got {kind!r}")
    if metric not in METRICS:
        raise InputError(f"init_metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    why = "asked for"
    if kind == AUTO:
        apart = _disagreement(fixed, moving)
        kind, why = ("affine", apart) if apart else (NONE, "the headers agree")
    if kind == NONE:
        return replace(NO_CHANGE, why=why)
    with stages.stage("initialisation"), torch.inference_mode(False), torch.no_grad():
        return Initial(kind, why, _found(fixed, moving, kind, metric, device, stages))


def _disagreement(fixed: Volume, moving: Volume) -> str:
    """How the headers disagree, in words; nothing where they do not."""
    ndim = fixed.data.ndim
    turn = np.linalg.inv(_directions(moving)) @ _directions(fixed)
    # Up to axes that are stored in another order or direction: the affines account for it.
    nearest = np.zeros_like(turn)
    for k in range(3):
        j = int(np.abs(turn[k]).argmax())
        nearest[k, j] = np.sign(turn[k, j])
    cosine = (np.trace(turn @ nearest.T) - 1) / 2
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if angle > WIDEST_ANGLE:
        return f"the headers are {angle:.0f} degrees apart"
    axes = [np.linspace(0, s - 1, 8) for s in fixed.data.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(ndim, -1)
    matrix = voxel_to_voxel(fixed.affine, moving.affine, ndim)
    reached = matrix[:, :ndim] @ points + matrix[:, ndim:]
    ends = np.array(moving.data.shape)[:, None] - 1
    overlap = float(((reached >= 0) & (reached <= ends)).all(0).mean())
    if overlap < LEAST_OVERLAP:
        return f"moving covers {100 * overlap:.0f} % of the fixed grid"
    return ""


def _directions(volume: Volume, ndim: int = 3) -> np.ndarray:
    """Rotation nearest to the axes of a grid."""
    u, _, v = np.linalg.svd(volume.affine[:ndim, :ndim] / np.linalg.norm(volume.affine[:3, :ndim], axis=0))
    rotation: np.ndarray = u @ v
    return rotation


def _found(fixed: Volume, moving: Volume, kind: str, metric: str, device: torch.device, stages: Stages) -> np.ndarray:
    ndim, frame = fixed.data.ndim, np.eye(4)
    if axes_in_itk(fixed) > ndim:  # a slice: its plane is turned into the first two axes of the world
        frame[:3, :3] = _directions(fixed)
        fixed, moving = (Volume(v.data, frame.T @ v.affine) for v in (fixed, moving))
    images = [(_scaled(name, v, device), _affine(v, ndim)) for name, v in (("fixed", fixed), ("moving", moving))]
    centres = [_centre(*image) for image in images]
    world = _World(kind, centres[0], torch.from_numpy(_directions(fixed, ndim)))
    extent = max(s * mm for s, mm in zip(fixed.data.shape, fixed.spacing, strict=True))
    poses = [torch.cat([torch.zeros(ndim, ndim).double(), world.axes.T @ (centres[1] - centres[0])[:, None]], 1)]
    if kind != "moments":
        done, total = 0, sum(descent.steps for descent in DESCENTS)
        for cells, rate, steps in DESCENTS:
            level = _Level(images, world, extent / cells, metric)
            passed = [level.best(poses)]
            for pose in level.descended(passed[0], rate, steps, extent):
                passed.append(pose)
                done += 1
                stages.advance(done / total)
            poses.append(passed[-1])
        # What is no better than where it came from is left alone.
        poses = [level.best(poses)]
    found, result = world.matrix(poses[0]).numpy(), np.eye(4)
    result[:ndim, :ndim], result[:ndim, 3] = found[:ndim, :ndim], found[:ndim, ndim]
    return frame @ result @ frame.T


class _World:
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

    def scales(self, sides: Tensor, radius: float) -> Tensor:
        """(ndim, ndim + 1): what of a pose moves places that far from the centre by one cell, its sides along the axes
        of fixed."""
        turns = (sides / radius)[:, None].expand(-1, len(sides))
        if not self.affine:  # two axes at once
            turns = 2 / (turns**-2 + turns.T**-2).sqrt()
        return torch.cat([turns, sides[:, None]], 1)


class _Level:
    """Two images at one resolution, and how they agree at a pose.

    Args:
        images: fixed and moving, (1, 1, *spatial), with their affines, (ndim + 1, ndim + 1).
        world: gives poses their meaning.
        spacing: of the cells, in mm.
        metric: one of `METRICS`.
    """

    def __init__(self, images: Sequence[tuple[Tensor, Tensor]], world: _World, spacing: float, metric: str) -> None:
        self.world = world
        (fixed, self.from_cells), (self.moving, self.to_cells) = (_pooled(*image, spacing) for image in images)
        self.features, to = METRICS[metric]
        self.distance = to(self.features(fixed))
        self.size, self.ones = fixed.shape[2:], torch.ones_like(self.moving)
        # The finer of the two along every axis of fixed.
        both = [torch.linalg.inv(cells[:-1, :-1]) @ world.axes for cells in (self.from_cells, self.to_cells)]
        self.sides = 1 / torch.stack(both).norm(dim=1).amax(0)
        # Moving may be small beside fixed.
        volumes = [
            cells.det().abs() * image[0, 0].numel()
            for cells, image in ((self.from_cells, fixed), (self.to_cells, self.moving))
        ]
        self.least = LEAST_LEFT * min(1.0, float(volumes[1] / volumes[0]))

    def sampled(self, image: Tensor, cells: Tensor, pose: Tensor, padding: str = "border") -> Tensor:
        """An image that has those cells, on the grid of fixed."""
        matrix = torch.linalg.solve(cells, self.world.matrix(pose) @ self.from_cells)[None, :-1]
        return affine_warp(image, matrix.to(image), self.size, padding=padding)

    def covered(self, pose: Tensor) -> Tensor:
        return self.sampled(self.ones, self.to_cells, pose, "zeros")

    def best(self, poses: Sequence[Tensor]) -> Tensor:
        """The pose at which they agree most, where moving covers fixed at all of them; those that leave hardly anything
        of what the ones before them cover are out.

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
        return poses[distances.index(min(distances))]

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
        mean, square, inside = torch.zeros_like(pose), 0.0, self.covered(pose)
        for step in range(steps):
            with torch.enable_grad():
                numbers.requires_grad_()
                moved = self.sampled(image, cells, start + scale * numbers)
                (gradient,) = torch.autograd.grad(self.distance(moved, inside), numbers)
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


def _affine(volume: Volume, ndim: int) -> Tensor:
    """(ndim + 1, ndim + 1): voxel -> mm."""
    keep = [*range(ndim), 3]
    return torch.from_numpy(volume.affine[np.ix_(keep, keep)]).double()


def _scaled(name: str, volume: Volume, device: torch.device) -> Tensor:
    """(1, 1, *spatial), the robust range from 0 to 1, what lies outside cut off."""
    image = volume.data.to(device, torch.float32)[None, None]
    low, high = robust_range(image)
    if not high > low:
        raise InputError(f"{name}: expected an image, but it is constant")
    return ((image - low) / (high - low)).clamp(0, 1)


def _centre(image: Tensor, affine: Tensor) -> Tensor:
    """In mm, of what differs from the background, which is what most of the border is; so in any contrast."""
    x = image[0, 0]
    border = torch.cat([x.select(axis, end).flatten() for axis in range(x.ndim) for end in (0, -1)])
    body = ((x - border.median()).abs() > LEAST_CONTRAST).double().cpu()
    if not body.any():
        body = torch.ones_like(body)
    centre = []
    for axis, size in enumerate(body.shape):
        profile = body.sum([k for k in range(body.ndim) if k != axis])
        centre.append((profile * torch.arange(size)).sum() / profile.sum())
    return affine[:-1, :-1] @ torch.stack(centre) + affine[:-1, -1]


def _pooled(image: Tensor, affine: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Averages over about that many mm along every axis, but few on thin ones, and their affine."""
    sides = affine[:-1, :-1].norm(dim=0).tolist()
    factors = [max(1, min(round(spacing / side), s // FEWEST)) for side, s in zip(sides, image.shape[2:], strict=True)]
    pool = F.avg_pool3d if image.ndim == 5 else F.avg_pool2d
    blocks = torch.eye(len(factors) + 1, dtype=torch.float64)
    for k, factor in enumerate(factors):
        blocks[k, k], blocks[k, -1] = factor, (factor - 1) / 2
    return pool(image, factors), affine @ blocks


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
