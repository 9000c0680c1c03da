"""Initialisation: a rigid or affine map of the world that brings moving near fixed, found over a few resolutions.

A map takes places of fixed to places of moving: y = L (x - c) + c + t, c the centre of what is in fixed. It is found by
steepest descent with momentum on t and on the numbers of which the exponential is L, the gradient through
`l2rfast.affine_warp`. Lengths are in cells of the resolution, so that it does not matter whether scans are of
a cell or of a whale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast import _threads
from l2rfast.errors import InputError
from l2rfast.io import Volume, axes_in_itk, voxel_to_voxel

from .intensities import in_range, robust_range
from .kept import Made
from .landmarks import Landmarks, fitted
from .poses import METRICS, Level, World
from .rotations import turned
from .stages import Stages
from .translations import Placed, compared, pooled
from .unsupervised.pyramid import shipped

NONE, AUTO = "none", "auto"
SEARCHED = ("rigid", "affine", "learned")  # in the images
KINDS = (NONE, "moments", *SEARCHED)
WIDEST_ANGLE, LEAST_OVERLAP = 10.0, 0.5  # in degrees, and of the fixed grid: what headers that agree have
# What is in images overrules headers that agree where a translation has that much more information than none, and that
# much for every place, in nats: what tells little, as ultrasound of MR, may fit anywhere.
GAIN, LEAST_TOLD = 1.05, 0.25
LEAST_COSINE = 1e-3  # of the angle between the planes of two slices
AFFINE_GAIN = 0.1  # of the distance, by which an affine map is better than none where no header says where slices lie


class Descent(NamedTuple):
    """Attributes:
    cells: how many there are along the longest side of what moving covers of fixed; of two axes about as many in all.
    rate: of the first step, in cells; that of the last is a tenth.
    steps: how many.
    """

    cells: int
    rate: float
    steps: int


COARSE = Descent(24, 0.5, 30)  # from every start, rigid and by mutual information
STARTS = 3  # translations to start from, besides none
DESCENTS = (Descent(24, 0.5, 60), Descent(48, 0.5, 40), Descent(48, 0.1, 20))
# From each of the turns that are best to the network; and from the one that is best then.
TURNS, NEAR, ONWARD = 5, Descent(24, 0.5, 8), (Descent(48, 0.3, 36),)
LEAST_CONTRAST = 0.1  # to the background, of the range of intensities
# Of a distance, by which a pose has to be better than where it came from: interpolation may gain so much.
HARDLY = 0.005
MARGIN = 0.25  # of what of an image the other covers, kept around it


@dataclass(frozen=True)
class Initial:
    """Where a registration starts.

    Attributes:
        kind: one of ``"none"``, ``"moments"``, ``"rigid"``, ``"affine"``, ``"learned"``, or ``"given"``.
        why: in words.
        matrix: (4, 4): place of fixed -> place of moving, in mm.
    """

    kind: str
    why: str
    matrix: np.ndarray

    def moved(self, moving: Volume) -> Volume:
        """Moving where the map puts it: with a header by which it lies on fixed."""
        return replace(moving, affine=np.linalg.solve(self.matrix, moving.affine))

    def then(self, other: Initial) -> Initial:
        """After another, found of moving where this one puts it."""
        why = self.why if other.kind == NONE else f"{other.why}, from {self.why}"
        kind = self.kind if other.kind == NONE else other.kind
        return Initial(kind, why, self.matrix @ other.matrix)


NO_CHANGE = Initial(NONE, "asked for", np.eye(4))
GIVEN = Initial("given", "the initial transform", np.eye(4))


def initialise(
    fixed: Volume,
    moving: Volume,
    kind: str,
    metric: str | None,
    device: torch.device,
    stages: Stages,
    landmarks: Landmarks | None = None,
    made: Made | None = None,
) -> Initial:
    """Find where a registration is to start.

    Args:
        fixed, moving: 2-D or 3-D.
        kind: ``"none"``; ``"moments"``: the centres of what is in them meet; ``"rigid"``; ``"affine"``; ``"learned"``,
            of 3-D images: affine, from the turn, up to 50 degrees, and the translation at which what the network of the
            method learned sees in them is most alike (`methods.rotations`); or ``"auto"``: none where the headers agree
            with each other and with what is in the images, else affine. Where nothing says where slices lie, as of
            pictures, an affine map is looked for in any case.
        metric: ``"mi"`` (mutual information; when None), ``"lncc"`` or ``"mind"``.
        device: where to compute.
        stages: times it.
        landmarks: each in voxels of its image. The rigid map by which they fit best, if there are enough, is one of
            those from which a rigid or affine one is searched.
        made: of ``fixed`` before.

    Raises:
        InputError: an unknown kind or metric, or images that it cannot align.
    """
    if kind not in (AUTO, *KINDS):
        raise InputError(f"init: expected one of {', '.join((AUTO, *KINDS))}, got {kind!r}")
    metric = checked(metric)
    if kind == NONE:
        return NO_CHANGE
    # Its images are small, so that it is of many short calls.
    alone = _threads.threads(_threads.free())
    with stages.stage("initialisation"), alone, torch.inference_mode(False), torch.no_grad():
        pair, why = _Images(fixed, moving, device, landmarks, made or Made()), "asked for"
        if kind != AUTO:
            return Initial(kind, why, pair.found(kind, metric, stages))
        if apart := _disagreement(fixed, moving) or pair.disagreement():
            return Initial("affine", apart, pair.found("affine", metric, stages))
        # Of volumes that would take longer than to register them.
        if fixed.data.ndim == 3 or (fixed.placed and moving.placed):
            return replace(NO_CHANGE, why="the headers agree")
        matrix = pair.found("affine", metric, stages, AFFINE_GAIN)
        if (matrix == np.eye(4)).all():
            return replace(NO_CHANGE, why="no header says where they lie, and they agree as they are")
        return Initial("affine", "no header says where they lie", matrix)


def checked(metric: str | None) -> str:
    """What a start is searched by.

    Raises:
        InputError: an unknown metric.
    """
    if metric is None:
        return "mi"
    if not isinstance(metric, str) or metric not in METRICS:
        raise InputError(f"init_metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    return metric


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


class _Images:
    """Two images, and the maps between them.

    Args:
        fixed, moving: as they were read.
        device: where to compute.
        landmarks, made: see `initialise`.
    """

    def __init__(
        self, fixed: Volume, moving: Volume, device: torch.device, landmarks: Landmarks | None, made: Made
    ) -> None:
        ndim, self.frame = fixed.data.ndim, np.eye(4)
        if axes_in_itk(fixed) > ndim:  # a slice: its plane is turned into the first two axes of the world
            self.frame[:3, :3] = _directions(fixed)
            fixed, moving = (replace(v, affine=self.frame.T @ v.affine) for v in (fixed, moving))
        self.images = [_placed(fixed, device, made), _placed(moving, device, Made())]
        if ndim == 2:  # seen from the plane of fixed
            area = abs(float(torch.linalg.det(self.images[1].affine[:-1, :-1])))
            if area < LEAST_COSINE * math.prod(moving.spacing):
                raise InputError(
                    "moving: expected a slice in about the plane of fixed, got one that stands on it by the headers; "
                    "init none goes by the voxels alone"
                )
        self.axes, self.ndim = torch.from_numpy(_directions(fixed, ndim)), ndim
        self.fitted = None if landmarks is None else fitted(*self._places(landmarks))

    def _places(self, landmarks: Landmarks) -> list[Tensor]:
        """In mm, (M, ndim) of each image."""
        affines = [image.affine for image in self.images]
        return [p @ a[:-1, :-1].T + a[:-1, -1] for p, a in zip(landmarks[:2], affines, strict=True)]

    def disagreement(self) -> str:
        """How headers put what is in the images apart, in words; nothing where they do not."""
        found = compared(self.images, self.axes)
        if not found.best or found.best[0].information < GAIN * found.still or found.best[0].told < LEAST_TOLD:
            return ""
        return f"by the headers, what is in them lies {float(found.best[0].by.norm()):.3g} mm apart"

    def found(self, kind: str, metric: str, stages: Stages, gain: float | None = None) -> np.ndarray:
        """(4, 4): place of fixed -> place of moving, in mm.

        Args:
            gain: where given, the identity stays unless what is found is better by such a share of the distance.

        Raises:
            InputError: images that cannot be aligned.
        """
        for name, (image, *_) in zip(("fixed", "moving"), self.images, strict=True):
            if float(image.min()) == float(image.max()):
                raise InputError(f"{name}: expected an image, but it is constant")
        if kind == "moments":
            matrix = self._centred()
        elif kind == "learned":
            matrix = self._descended("affine", self._turned(), metric, stages, HARDLY, ONWARD)
        else:
            starts = self._started()
            if gain is not None:
                starts.insert(0, self._translated(torch.zeros(self.ndim, dtype=torch.float64)))
            matrix = self._descended(kind, starts, metric, stages, HARDLY if gain is None else gain)
        found, result, ndim = matrix.numpy(), np.eye(4), self.ndim
        result[:ndim, :ndim], result[:ndim, 3] = found[:ndim, :ndim], found[:ndim, ndim]
        return self.frame @ result @ self.frame.T

    def _centred(self) -> Tensor:
        fixed, moving = (_centre(image) for image in self.images)
        return self._translated(self.axes.T @ (moving - fixed))

    def _translated(self, by: Tensor) -> Tensor:
        """The map of the world, (ndim + 1, ndim + 1), for a translation along the axes."""
        matrix = torch.eye(self.ndim + 1, dtype=torch.float64)
        matrix[:-1, -1] = self.axes @ by
        return matrix

    def _started(self) -> list[Tensor]:
        """The rigid map of most information, from several translations, and from what fits the landmarks."""
        found = compared(self.images, self.axes, STARTS)
        starts = [self._translated(translation.by) for translation in found.best]
        if found.still > 0:
            starts.insert(0, self._translated(torch.zeros(self.ndim, dtype=torch.float64)))
        return self._most_telling(self.images, starts, found.spacing, COARSE)

    def _turned(self) -> list[Tensor]:
        """The rigid map of most information, from the turns at which the images are most alike to the network that
        comes with the package, and from what fits the landmarks.

        Raises:
            InputError: images that it cannot align.
        """
        if self.ndim != 3:
            raise InputError(f"init: learned is for 3-D images, got {self.ndim}-D ones")
        network = shipped().to(self.images[0].image.device)
        found = turned(self.images, self.axes, network.coarsest)
        small = [pooled(image, found.spacing / 2) for image in self.images]  # once for all of them
        starts = found.best[:TURNS] or [self._translated(torch.zeros(3, dtype=torch.float64))]
        return self._most_telling(small, starts, found.spacing, NEAR)

    def _most_telling(
        self, placed: Sequence[Placed], starts: list[Tensor], spacing: float, descent: Descent
    ) -> list[Tensor]:
        """Of rigid maps of two images, that which fits the landmarks among them: where the one of most information that
        is reached began, and what it came to.

        Raises:
            InputError: they hardly overlap at any.
        """
        if self.fitted is not None:
            starts.append(self.fitted)
        best: list[Tensor] = []
        most, extent = 0.0, descent.cells * spacing
        for matrix in starts:
            images = _overlapping(placed, matrix)
            world = World("rigid", _centre(images[0]), self.axes)
            level, pose = Level(images, world, spacing, "mi"), world.pose(matrix)
            for reached in [pose, *[*level.descended(pose, descent.rate, descent.steps, extent)][-1:]]:
                if (information := level.information(reached)) > most:
                    best, most = [matrix, world.matrix(reached)], information
        if not best:
            raise InputError("init: expected images that can be aligned, but hardly anything of them overlaps")
        return best

    def _descended(
        self,
        kind: str,
        starts: list[Tensor],
        metric: str,
        stages: Stages,
        hardly: float,
        descents: Sequence[Descent] = DESCENTS,
    ) -> Tensor:
        """The map that is reached from the best of rigid ones."""
        images = _overlapping(self.images, starts[-1])
        fixed = images[0]
        extent = float((torch.tensor(fixed.image.shape[2:]) * fixed.affine[:-1, :-1].norm(dim=0)).max())
        world = World(kind, _centre(fixed), self.axes)
        poses, done, total = [world.pose(start) for start in starts], 0, sum(descent.steps for descent in descents)
        for cells, rate, steps in descents:
            level = Level(images, world, extent / cells ** (3 / self.ndim), metric)
            passed = [level.best(poses)]
            for reached in level.descended(passed[0], rate, steps, extent):
                passed.append(reached)
                done += 1
                stages.advance(done / total)
            poses.append(passed[-1])
        return world.matrix(level.best(poses, hardly))


def _overlapping(images: Sequence[Placed], matrix: Tensor) -> list[Placed]:
    """Of two images what lies on the other and a margin, so that resolutions suit it: a slab may be of a whole body.

    Args:
        images: fixed and moving.
        matrix: place of fixed -> place of moving.
    """
    fixed, moving = images
    across = torch.linalg.solve(moving.affine, matrix @ fixed.affine)
    return [
        _cut(fixed, torch.linalg.inv(across), moving.image.shape[2:]),
        _cut(moving, across, fixed.image.shape[2:]),
    ]


def _cut(placed: Placed, matrix: Tensor, size: Sequence[int]) -> Placed:
    """The part of an image to which a matrix takes the voxels of a grid."""
    image, affine, mask = placed
    ends = torch.meshgrid(*[torch.tensor([-0.5, n - 0.5], dtype=torch.float64) for n in size], indexing="ij")
    corners = matrix[:-1, :-1] @ torch.stack(ends).flatten(1) + matrix[:-1, -1:]
    shift, whole = torch.eye(len(matrix), dtype=torch.float64), tuple(image.shape[2:])
    for k, n in enumerate(whole):
        low, high = max(float(corners[k].min()), -0.5), min(float(corners[k].max()), n - 0.5)
        if high <= low:  # nothing of it lies on the other
            continue
        margin = MARGIN * (high - low)
        first, last = max(0, int(low - margin)), min(n, int(high + margin) + 1)
        image, shift[k, -1] = image.narrow(k + 2, first, last - first), first
        mask = None if mask is None else mask.narrow(k + 2, first, last - first)
    return Placed(image, affine @ shift, mask)


def _placed(volume: Volume, device: torch.device, made: Made) -> Placed:
    """The robust range from 0 to 1, what lies outside cut off; 0 where it is constant."""
    image = volume.data.to(device, torch.float32)[None, None]
    mask = None if volume.mask is None else volume.mask.to(device)[None, None]
    keep = [*range(volume.data.ndim), 3]
    affine = torch.from_numpy(volume.affine[np.ix_(keep, keep)]).double()
    known = made.once("range", None, lambda: robust_range(image, mask))
    return Placed(in_range(image, mask, known), affine, None if mask is None else mask.float())


def _centre(placed: Placed) -> Tensor:
    """In mm, of what counts and is not the background, which is what most of the border is; so in any contrast."""
    x, affine = placed.image[0, 0], placed.affine
    inside = torch.ones_like(x, dtype=torch.bool) if placed.mask is None else placed.mask[0, 0] > 0.5
    sides = [(axis, end) for axis in range(x.ndim) for end in (0, -1)]
    border = torch.cat([x.select(*side)[inside.select(*side)] for side in sides])
    body = inside
    if len(border):
        background = float(border.median())
        body = inside & ((x < background - LEAST_CONTRAST) | (x > background + LEAST_CONTRAST))
    body = (body if body.any() else inside if inside.any() else torch.ones_like(inside)).cpu()
    centre = []
    for axis, size in enumerate(body.shape):
        # NumPy's, which counts truths several times faster.
        counted = np.count_nonzero(body.numpy(), axis=tuple(k for k in range(body.ndim) if k != axis))
        profile = torch.from_numpy(np.asarray(counted)).double()
        centre.append((profile * torch.arange(size)).sum() / profile.sum())
    return affine[:-1, :-1] @ torch.stack(centre) + affine[:-1, -1]
