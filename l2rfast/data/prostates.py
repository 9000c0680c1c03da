"""Generated pairs of MR and ultrasound of a prostate, with labels of the gland and of landmarks.

What label-reg is trained on before it sees real scans, and what shows what a network of it can learn where there are
enough cases. The gland is a superposition of an ellipsoid, a taper and smooth noise; MR paints it with zones, bladder,
rectum, muscles and bone; ultrasound sees it pressed flat by the probe, in a fan, with speckle, shadows and less light
with depth. Axes are those of the public scans: from anterior to posterior, from one side to the other, from below to
above.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import _check
from .._folders import made
from ..errors import InputError
from ..filters import box_average
from ..io import Volume, write_image

SIZES = {"fixed": (44, 59, 41), "moving": (64, 64, 60)}  # ultrasound and MR, as the public scans are

# Of the glands of 17 public pairs (`python -m bench.prostates shapes`): mean and standard deviation along each axis of
# where the centre lies from that of the grid, in voxels, of the logarithm of the standard deviation of the gland in MR,
# beside the size of all axes together, and of how much larger, as a logarithm, it is in ultrasound.
CENTRES = {"fixed": ((0.9, 0.7, 0.8), (1.9, 1.9, 4.0)), "moving": ((1.5, 1.2, -1.3), (4.1, 1.3, 3.5))}
SPREAD, SPREADS = (1.833, 2.041, 1.926), (0.06, 0.08, 0.09)
LARGE = 0.18  # standard deviation of the logarithm of the size
FLATTER, FLATTERS = (-0.067, 0.124, 0.043), (0.085, 0.08, 0.134)
# Where landmarks lie, in radii from the centre: the apex, the neck of the bladder, and anywhere in the gland.
LANDMARKS = (((0.02, 0.0, -0.85), 0.12), ((-0.65, 0.0, 0.55), 0.15), ((0.0, 0.0, 0.0), 0.35))
COUNTS = (1, 1, 2, 3, 3)  # labels of a pair, one of these: the gland, then landmarks
LANDMARK = 2.6  # voxels of MR, the radius of their blobs
SEEN = 20  # voxels of its blob that both images have to have
RADIUS = math.sqrt(5.0)  # of an ellipsoid, in standard deviations
FARTHEST = 2.0  # standard deviations from the mean that are drawn


@dataclass(frozen=True)
class Prostate:
    """A pair.

    Attributes:
        fixed, moving: ultrasound and MR, (*spatial) float32 from 0 to 1.
        fixed_labels, moving_labels: (*spatial, L) bool: the gland, then landmarks; in the same order in both.
    """

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor


def prostates(count: int, *, seed: int = 0) -> Iterator[Prostate]:
    """Pairs, the same for the same seed: the first ones are the same for any count.

    Args:
        count: how many.
        seed: of the random numbers.

    Raises:
        InputError: an argument out of range.
    """
    count, seed = _check.at_least("count", count, 1), _check.at_least("seed", seed, 0)
    return (_prostate(torch.Generator().manual_seed((seed << 20) + i)) for i in range(count))


def write_prostates(folder: str | os.PathLike[str], count: int = 120, *, seed: int = 0, first: int = 0) -> None:
    """Write pairs as NIfTI files of the layout that ``l2rfast train weakly-supervised --data`` takes.

    Args:
        folder: created if absent: ``{fixed,moving}_{images,labels}/case000000.nii.gz`` and so on, voxels of 1 mm.
        count, seed: see `prostates`.
        first: the number of the first of these pairs that is written, those before are left out.

    Raises:
        InputError: an argument out of range, or a folder that cannot be written.
    """
    first = _check.at_least("first", first, 0, most=count - 1)
    root = Path(folder)
    names = ("fixed_images", "moving_images", "fixed_labels", "moving_labels")
    try:
        for name in names:
            made(root / name)
    except OSError as error:
        raise InputError(f"folder: expected one that can be written, got {root} ({error.strerror})") from error
    for i, pair in enumerate(prostates(count, seed=seed)):
        if i < first:
            continue
        images = [(255 * image).round().to(torch.uint8) for image in (pair.fixed, pair.moving)]
        masks = [labels.to(torch.uint8) for labels in (pair.fixed_labels, pair.moving_labels)]
        for name, values in zip(names, images + masks, strict=True):
            write_image(root / name / f"case{i:06}.nii.gz", Volume(values, np.eye(4)))


def _prostate(random: torch.Generator) -> Prostate:
    size = LARGE * _normal(random)
    log_spread = torch.tensor(SPREAD) + size + torch.tensor(SPREADS) * _normal(random, 3)
    log_flatter = torch.tensor(FLATTER) + torch.tensor(FLATTERS) * _normal(random, 3)
    radii = RADIUS * log_spread.exp()
    gland = _Gland(radii, random)
    labels = COUNTS[int(torch.randint(len(COUNTS), (), generator=random))] - 1
    order = torch.randperm(len(LANDMARKS), generator=random)[:labels].tolist()
    points = [radii * (torch.tensor(LANDMARKS[i][0]) + LANDMARKS[i][1] * _normal(random, 3)) for i in sorted(order)]
    centres = {role: torch.tensor(m) + torch.tensor(s) * _normal(random, 3) for role, (m, s) in CENTRES.items()}
    # (3, *spatial) each: where every voxel is, in voxels of MR from the centre of the gland.
    turn = _rotation(0.06 * _normal(random, 3))
    moving = _places("moving", centres["moving"], turn)
    fixed = _places("fixed", centres["fixed"], (-log_flatter).exp().diag() @ _rotation(0.06 * _normal(random, 3)))
    fixed = fixed + 1.2 * _smooth(3, SIZES["fixed"], 5, random)
    mr = _mr(gland, moving, points, random)
    us = _ultrasound(gland, fixed, points, random)
    blobs = [[_near(places, point) for places in (fixed, moving)] for point in points]
    seen = [blob for blob in blobs if all(int(mask.sum()) >= SEEN for mask in blob)]  # others the grids cut off
    glands = [gland.depth(places) < 1 for places in (fixed, moving)]
    masks = [torch.stack([glands[role], *(blob[role] for blob in seen)], -1) for role in (0, 1)]
    return Prostate(us, mr, *masks)


class _Gland:
    """What the gland of a pair is: its radii, and noise that its outline and its insides have in both images."""

    def __init__(self, radii: Tensor, random: torch.Generator) -> None:
        self.radii = radii
        self.taper = 0.4 + 0.08 * _normal(random)
        self.notch = 0.12 + 0.04 * _normal(random)
        # Of directions and insides: sums of a few waves, which are known at any place.
        self.waves = torch.randn(12, 3, generator=random)
        self.phases = 2 * math.pi * torch.rand(12, generator=random)

    def depth(self, places: Tensor) -> Tensor:
        """(*spatial): 0 at the centre, 1 at the capsule, of places (3, *spatial) in voxels of MR."""
        q = places / self.radii.view(3, 1, 1, 1)
        width = 1 - self.taper * torch.sigmoid(-5 * (q[2] + 0.55))  # narrower towards the apex
        back = q[0] / width + self.notch * torch.exp(-((q[1] / 0.35) ** 2)) * (q[0] > 0)  # where the rectum lies
        radius = torch.stack([back, q[1] / width, q[2]]).square().sum(0).sqrt()
        return radius + 0.05 * self.texture(places, 1.5)

    def texture(self, places: Tensor, fine: float) -> Tensor:
        """(*spatial), of mean 0 and standard deviation 1 about: the same in both images."""
        q = (places / self.radii.view(3, 1, 1, 1)).flatten(1)
        waves = torch.cos(fine * (self.waves @ q) + self.phases[:, None])
        return (waves.sum(0) * math.sqrt(2 / len(self.waves))).view(places.shape[1:])


def _mr(gland: _Gland, places: Tensor, points: Sequence[Tensor], random: torch.Generator) -> Tensor:
    """Weighted by T2: fat and fluid are bright, muscle, bone and gas dark."""
    q, depth = places / gland.radii.view(3, 1, 1, 1), gland.depth(places)
    size = places.shape[1:]

    def level(mean: float, spread: float = 0.08) -> Tensor:
        return mean + spread * _normal(random)

    texture = _smooth(2, size, 3, random)
    image = level(0.4) + 0.1 * texture[0]
    fat = (q[0].abs() + 0.6 * q[1].abs() - 1.7) * 3
    image = image + (level(0.75) - image) * torch.sigmoid(fat + texture[1])
    side = level(1.75, 0.15)
    muscle = torch.sigmoid(9 * (0.28 + 0.05 * texture[0] - (q[1].abs() - side + 0.25 * q[0]).abs()))
    image = image + (level(0.15, 0.04) - image) * muscle
    bone = _inside(q, (level(-1.9, 0.15), level(0, 0.1), level(-0.2, 0.3)), (0.45, 0.7, 1.0))
    image = image + (level(0.2, 0.06) - image) * bone
    bladder = _inside(q, (level(-0.5, 0.2), level(0, 0.1), level(1.75, 0.12)), (0.9, 1.2, 0.7))
    image = image + (level(0.9, 0.12) - image) * bladder
    behind = 1.5 + 0.2 * q[2] + 0.1 * _normal(random)
    wide = level(0.42, 0.12).clamp(min=0.2)
    rectum = torch.sigmoid(6 * (1 - ((q[0] - behind).square() + q[1].square()).sqrt() / wide))
    image = image + (level(0.2, 0.15) - image) * rectum
    inner = level(0.33) + 0.06 * gland.texture(places, 4.0)
    zone = torch.sigmoid(8 * (q[0] + 0.5 * q[1].square() - 0.35 - 0.15 * q[2]))  # peripheral, behind and beside
    inside = inner + (level(0.58, 0.1) - inner) * zone
    for i, point in enumerate(points):
        inside = inside + (0.15 if i % 2 else -0.12) * _near(places, point)
    image = torch.where(depth < 1, inside, image)
    image = image * (1 - 0.35 * torch.exp(-(((depth - 1) / 0.06) ** 2)))  # the capsule
    image = _blurred(image, 2, 4, random)
    image = image * (0.25 * _smooth(1, size, 8, random)[0]).exp() + 0.01 * _normal(random, *size)
    return _finished(image * _cut(size[2], random, 9), 0.3, random)


def _ultrasound(gland: _Gland, places: Tensor, points: Sequence[Tensor], random: torch.Generator) -> Tensor:
    """A fan from the probe behind the gland."""
    depth, q = gland.depth(places), places / gland.radii.view(3, 1, 1, 1)
    size = places.shape[1:]

    def level(mean: float, spread: float = 0.08) -> Tensor:
        return mean + spread * _normal(random)

    texture = _smooth(2, size, 3, random)
    image = level(0.5, 0.12) + 0.12 * texture[0]
    bladder = _inside(q, (level(-0.6, 0.2), level(0, 0.1), level(1.75, 0.12)), (0.9, 1.2, 0.7))
    image = image * (1 - 0.9 * bladder)
    inside = level(0.42) + 0.08 * gland.texture(places, 4.0) + level(0.15) * torch.sigmoid(8 * (q[0] - 0.3))
    for i, point in enumerate(points):
        inside = inside + (-0.2 if i % 2 else 0.15) * _near(places, point)
    image = torch.where(depth < 1, inside, image)
    image = image * (1 - level(0.5, 0.15).clamp(0.1, 0.8) * torch.exp(-(((depth - 1.02) / 0.09) ** 2)))  # the border
    # Rays from the axis of the probe, which lies along the last axis, a little behind the gland.
    hollow = _where(depth[:, :, size[2] // 2] < 1, size)
    radius = float(level(10.0, 1.5).clamp(7, 13))
    back = hollow[0] + float(level(2.0, 1.0).clamp(0.5, 4)) + radius
    across = hollow[1] + float(level(0, 1.5))
    ahead, aside = torch.meshgrid(torch.arange(size[0]) - back, torch.arange(size[1]) - across, indexing="ij")
    away = (ahead.square() + aside.square()).sqrt() - radius
    angle = torch.atan2(aside, -ahead)
    image = image * torch.exp(-away.clamp(min=0) / float(level(28.0, 7.0).clamp(15, 45)))[..., None]
    wall = torch.exp(-((away - 1.5) / 1.8).square())  # of the rectum
    image = image + float(level(0.35, 0.1)) * wall[..., None]
    for _ in range(int(torch.randint(4, (), generator=random))):
        at, wide, from_ = (
            0.6 * _normal(random),
            0.04 + 0.03 * _normal(random).abs(),
            20 * torch.rand(1, generator=random),
        )
        shade = torch.exp(-(((angle - at) / wide) ** 2)) * torch.sigmoid(away - from_)
        along = torch.sigmoid(2 * _smooth(1, (size[2] + 16,), 4, random)[0, 8:-8])
        image = image * (1 - float(level(0.6, 0.15).clamp(0, 0.9)) * shade[..., None] * along)
    # Amplitudes of many scatterers.
    parts = _smooth(2, size, 1, random)
    image = image * (0.5 + 0.5 * parts.square().sum(0).sqrt() / math.sqrt(math.pi / 2))
    half = float(level(0.95, 0.2).clamp(0.6, 1.4))
    fan = torch.sigmoid(2 * away) * torch.sigmoid(25 * (half - angle.abs()))
    image = _blurred(image * fan[..., None], 4, 9, random)
    return _finished(image * _cut(size[2], random, 2), 0.3, random)


def _places(role: str, centre: Tensor, matrix: Tensor) -> Tensor:
    """(3, *spatial): of every voxel, from the centre of the gland."""
    axes = torch.meshgrid(*(torch.arange(s) - (s - 1) / 2 for s in SIZES[role]), indexing="ij")
    return torch.einsum("ij,jklm->iklm", matrix, torch.stack(axes) - centre.view(3, 1, 1, 1))


def _rotation(turns: Tensor) -> Tensor:
    """(3, 3), of angles about the axes, in radians."""
    a, b, c = turns.tolist()
    turned: Tensor = torch.linalg.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]]))
    return turned


def _inside(q: Tensor, centre: Sequence[Tensor | float], radii: Sequence[float]) -> Tensor:
    """Of an ellipsoid with a soft border, 1 inside and 0 outside."""
    off = torch.stack([(x - c) / r for x, c, r in zip(q, centre, radii, strict=True)]).square().sum(0).sqrt()
    return torch.sigmoid(12 * (1 - off))


def _near(places: Tensor, point: Tensor) -> Tensor:
    """Which are in the blob of a landmark."""
    return (places - point.view(3, 1, 1, 1)).square().sum(0) < LANDMARK**2


def _where(mask: Tensor, size: Sequence[int]) -> tuple[float, float]:
    """The hindmost voxel of the gland in a slice, and the middle of the gland across; of none the grid's."""
    found = mask.nonzero()
    if not len(found):
        return 0.75 * size[0], size[1] / 2
    return float(found[:, 0].max()), float(found[:, 1].float().mean())


def _cut(size: int, random: torch.Generator, most: int) -> Tensor:
    """Along the last axis: 1 within, 0 where no slices were taken, at both ends."""
    ends = most * torch.rand(2, generator=random)
    at = torch.arange(size, dtype=torch.float32)
    return torch.sigmoid(2 * (at - ends[0] + 1)) * torch.sigmoid(2 * (size - at - ends[1]))


def _finished(image: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """From 0 to 1, of another gamma, and the brightest cut off as a window does."""
    image = image.clamp(min=0)
    top = float(image.flatten().kthvalue(int(0.995 * image.numel())).values)
    gamma = float((strength * _normal(random)).exp())
    return (image / max(top, 1e-6)).clamp(0, 1) ** gamma


def _blurred(image: Tensor, least: int, most: int, random: torch.Generator) -> Tensor:
    """By so many averages over three voxels along every axis: each adds 2/3 to the variance of the blur."""
    passes = int(torch.randint(least, most + 1, (), generator=random))
    return box_average(image[None, None], 1, passes=passes)[0, 0]


def _normal(random: torch.Generator, *size: int) -> Tensor:
    """Of mean 0 and standard deviation 1, none farther off than `FARTHEST`."""
    return torch.randn(size, generator=random).clamp(-FARTHEST, FARTHEST)


def _smooth(channels: int, size: Sequence[int], radius: int, random: torch.Generator) -> Tensor:
    """(channels, *size), each of mean 0 and standard deviation 1."""
    spatial = (1,) * (2 - len(size)) + tuple(size)  # two axes at least
    values = box_average(torch.randn(1, channels, *spatial, generator=random), radius, passes=3)[0].flatten(1)
    values = (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True)
    return values.view(channels, *size)
