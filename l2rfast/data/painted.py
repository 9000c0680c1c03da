"""Images painted from label maps, in contrasts that are new every time: what a network learns from that is to register
scans of any contrast, without a scan to learn from.

After SynthMorph (Hoffmann et al., "SynthMorph: learning contrast-invariant registration without acquired images", IEEE
TMI 2022): label maps are random shapes, or given; of each there are two deformations, each painted with intensities of
its own. Beside its shapes there are bodies here: an outline on a background, folded layers below it, and structures
inside, as a head has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _check
from ..errors import InputError
from ..fields import integrate_velocity
from ..filters import block_average, gaussian_filter
from ..transforms import affine_warp

SHAPES = 0.35  # of the label maps that are shapes all over, the others are bodies
MOST = 27  # labels of shapes, with the background
SKULLS = 0.3  # of the bodies that have two more layers around them
LATTICE = 4  # voxels between the points of a velocity
LENGTHS = (32.0, 16.0, 8.0)  # of its waves, in voxels


@dataclass(frozen=True)
class Range:
    """How much two images of one label map differ. Standard deviations, unless it says otherwise.

    Attributes:
        deformation: of the velocity at the longest waves, in voxels, at most; of shorter ones as much less.
        rotation: about every axis, degrees, at most.
        scale: of the logarithm of the scaling along every axis.
        shift: along every axis, voxels.
        noise: of the intensities of one label, which lie from 0 to 1, at most.
        blur: of a Gaussian, voxels, at most.
        bias: of the logarithm of a smooth factor, at most.
        gamma: of the logarithm of the exponent of the intensities.
        thick: share of the images that are averaged over slices of 2 to 4 voxels along one axis.
        cropped: share of the images of which up to a quarter is missing at one end of an axis.
    """

    deformation: float = 5.0
    rotation: float = 5.0
    scale: float = 0.04
    shift: float = 1.5
    noise: float = 0.12
    blur: float = 1.0
    bias: float = 0.3
    gamma: float = 0.25
    thick: float = 0.2
    cropped: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _check.not_negative(name, value)


class Painted(NamedTuple):
    """Two images of one label map.

    Attributes:
        images: (1, 1, *size) float32 each, from 0 to 1.
        labels: (1, 1, *size) uint8 each; in the map that they come from a label is the same structure.
    """

    images: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor]


def label_map(size: Sequence[int], random: torch.Generator) -> Tensor:
    """A random label map, of shapes all over or of a body.

    Args:
        size: (H, W) or (D, H, W), at least 16 along every axis.
        random: where the numbers come from.

    Returns:
        (1, 1, *size) uint8; 0 is the background of a body, and one of the shapes.

    Raises:
        InputError: a size out of range.
    """
    size = tuple(_check.plain(size))
    if len(size) not in (2, 3) or not all(_check.is_integer(s) and s >= 16 for s in size):
        raise InputError(f"size: expected (H, W) or (D, H, W), at least 16 each, got {size}")
    return _shapes(size, random) if _chance(SHAPES, random) else _body(size, random)


def painted_pair(labels: Tensor, random: torch.Generator, differing: Range | None = None) -> Painted:
    """Two images of a label map, deformed and painted independently.

    Args:
        labels: (1, 1, *spatial) uint8, of few labels: those above 0 get intensities of their own.
        random: where the numbers come from.
        differing: see `Range`.

    Raises:
        InputError: no such label map.
    """
    _check.image("labels", labels, floating=False)
    if labels.dtype != torch.uint8 or labels.shape[:2] != (1, 1):
        raise InputError(f"labels: expected uint8 of shape (1, 1, *spatial), got {labels.dtype} {tuple(labels.shape)}")
    differing, size = differing or Range(), labels.shape[2:]
    empty = _chance(0.6, random)  # whether there is nothing where the label is 0, as around a head
    maps, images = [], []
    for _ in range(2):
        matrix, field = _affine(size, differing, random), _displacement(size, differing.deformation, random)
        maps.append(affine_warp(labels, matrix, disp=field, mode="nearest"))
        images.append(painted(maps[-1], random, differing, empty=empty))
    return Painted((images[0], images[1]), (maps[0], maps[1]))


def painted(labels: Tensor, random: torch.Generator, differing: Range, *, empty: bool = False) -> Tensor:
    """An image of a label map.

    Args:
        labels, random, differing: as in `painted_pair`.
        empty: whether the intensity of label 0 is 0.

    Returns:
        (1, 1, *spatial) float32, from 0 to 1.
    """
    size, number = labels.shape[2:], int(labels.max()) + 1
    means, noise = torch.rand(number, generator=random), torch.rand(number, generator=random)
    noise *= _between(0.02, differing.noise, random) if differing.noise > 0.02 else differing.noise
    if empty:
        means[0] = noise[0] = 0
    index = labels.int()
    image = torch.randn(labels.shape, generator=random).mul_(noise[index]).add_(means[index])
    if (blur := _between(0, differing.blur, random)) > 0.2:  # below, a Gaussian is a voxel
        image = gaussian_filter(image, blur)
    if differing.bias:
        field = _smooth(1, size, _between(0.3, 0.75, random) * min(size), random)
        image *= torch.exp(_between(0, differing.bias, random) * field)
    if _chance(differing.thick, random):
        image = _thick(image, random)
    if _chance(differing.cropped, random):
        image = _cropped(image, random)
    least, most = image.aminmax()
    image = (image - least).div_((most - least).clamp(min=1e-6))
    return image.pow_(math.exp(differing.gamma * float(torch.randn((), generator=random))))


def _thick(image: Tensor, random: torch.Generator) -> Tensor:
    """Averaged over slices along one axis, linear between them."""
    ndim = image.ndim - 2
    axis, voxels = int(torch.randint(ndim, (), generator=random)), int(torch.randint(2, 5, (), generator=random))
    blocks = [voxels if k == axis else 1 for k in range(ndim)]
    matrix = torch.eye(ndim, ndim + 1)
    matrix[axis, axis], matrix[axis, ndim] = 1 / voxels, (1 / voxels - 1) / 2
    return affine_warp(block_average(image, blocks), matrix[None], image.shape[2:])


def _cropped(image: Tensor, random: torch.Generator) -> Tensor:
    axis = 2 + int(torch.randint(image.ndim - 2, (), generator=random))
    missing = int(_between(0, 0.25, random) * image.shape[axis])
    first = 0 if _chance(0.5, random) else image.shape[axis] - missing
    image.narrow(axis, first, missing).zero_()
    return image


def _shapes(size: Sequence[int], random: torch.Generator) -> Tensor:
    """Every voxel of the label whose noise is the largest, as SynthMorph has it."""
    number = int(torch.randint(8, MOST, (), generator=random))
    waves = _smooth(number, size, _between(16, 32, random), random)
    waves += 0.6 * _smooth(number, size, _between(8, 14, random), random)
    return waves.argmax(1, keepdim=True).to(torch.uint8)


def _body(size: Sequence[int], random: torch.Generator) -> Tensor:
    """Label 1 below the outline, then a folded layer, 2, and what it surrounds, 3; from 4 on structures inside."""
    depth = _radius(size, random) + 0.06 * _smooth(1, size, _between(16, 32, random), random)
    folded = depth + _between(0.08, 0.25, random) * _smooth(1, size, _between(4, 9, random), random)
    labels = (depth < 1).long()
    for label, below in ((2, _between(0.9, 1.0, random)), (3, _between(0.6, 0.8, random))):
        labels = torch.where((depth < 1) & (folded < below), label, labels)
    number = int(torch.randint(6, 20, (), generator=random))
    waves = _smooth(number, size, _between(6, 14, random), random)
    waves += 0.4 * _smooth(number, size, _between(4, 7, random), random)
    highest, which = waves.max(1, keepdim=True)
    inside = (depth < _between(0.4, 0.8, random)) & (highest > _between(0.6, 1.8, random))
    labels = torch.where(inside, 4 + which, labels)
    if _chance(SKULLS, random):
        between = _between(1.04, 1.12, random)
        labels = torch.where((depth >= 1) & (depth < between), MOST, labels)
        labels = torch.where((depth >= between) & (depth < between + _between(0.03, 0.1, random)), MOST + 1, labels)
    return labels.to(torch.uint8)


def _radius(size: Sequence[int], random: torch.Generator) -> Tensor:
    """(1, 1, *size): 1 on an ellipsoid that fills 70 to 100 % of the image along each axis."""
    squares = []
    for s in size:
        places = (torch.linspace(-1, 1, s) - _between(-0.1, 0.1, random)) / _between(0.7, 1.0, random)
        squares.append(places.square())
    return sum(torch.meshgrid(*squares, indexing="ij"), torch.zeros(())).sqrt()[None, None]


def _smooth(channels: int, size: Sequence[int], length: float, random: torch.Generator) -> Tensor:
    """(1, channels, *size): noise of points that are so many voxels apart, linear between them."""
    ndim = len(size)
    points = [math.ceil(s / length) + 2 for s in size]
    matrix = torch.cat([torch.eye(ndim) / length, torch.rand(ndim, 1, generator=random)], 1)
    return affine_warp(torch.randn(1, channels, *points, generator=random), matrix[None], size)


def _displacement(size: Sequence[int], strength: float, random: torch.Generator) -> Tensor:
    """(1, ndim, *size), in voxels: of a random velocity, so that it does not fold."""
    ndim = len(size)
    points = [-(-s // LATTICE) + 1 for s in size]
    velocity = torch.zeros(1, ndim, *points)
    for length in LENGTHS:
        waves = _smooth(ndim, points, length / LATTICE, random)
        velocity += _between(0, strength, random) * length / LENGTHS[0] / LATTICE * waves
    matrix = torch.eye(ndim, ndim + 1) / LATTICE
    return LATTICE * affine_warp(integrate_velocity(velocity, 5), matrix[None], size)


def _affine(size: Sequence[int], differing: Range, random: torch.Generator) -> Tensor:
    """(1, ndim, ndim + 1), about the centre of the image."""
    ndim = len(size)
    linear = torch.diag(torch.exp(differing.scale * torch.randn(ndim, generator=random)))
    for i, j in combinations(range(ndim), 2):
        angle = math.radians(_between(-differing.rotation, differing.rotation, random))
        turn = torch.eye(ndim)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[j, i] = math.sin(angle)
        turn[i, j] = -turn[j, i]
        linear = turn @ linear
    centre = (torch.tensor(size) - 1) / 2
    offset = centre - linear @ centre + differing.shift * torch.randn(ndim, generator=random)
    return torch.cat([linear, offset[:, None]], 1)[None]


def _between(least: float, most: float, random: torch.Generator) -> float:
    return least + (most - least) * float(torch.rand((), generator=random))


def _chance(share: float, random: torch.Generator) -> bool:
    return float(torch.rand((), generator=random)) < share
