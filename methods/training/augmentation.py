"""Random changes to scans that training is to be insensitive to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2rfast import affine_warp, warp
from l2rfast.filters import box_average

from .options import TrainerOptions

RADIUS, PASSES = 5, 3  # of the average that makes elastic deformations smooth: near to a Gaussian of 5.5 voxels


@dataclass(frozen=True)
class Shared:
    """What is drawn once for both images of a pair.

    Attributes:
        scale: how many times larger things become.
        mirrored: axes, 0 the first spatial one.
    """

    scale: float = 1.0
    mirrored: tuple[int, ...] = ()

    @classmethod
    def drawn(cls, options: TrainerOptions, random: torch.Generator) -> Shared:
        """Each of the axes that are to be mirrored is so in one half of the pairs."""
        scale = math.exp(options.scale * float(torch.randn((), generator=random))) if options.scale else 1.0
        chosen = [axis for axis in options.mirror if torch.rand((), generator=random) < 0.5]
        return cls(scale, tuple(chosen))


def deformed(
    images: Tensor,
    options: TrainerOptions,
    random: torch.Generator,
    shared: Shared,
    *,
    shift: float = 0.0,
    apart: int = 0,
    level: int = 1,
) -> Tensor:
    """Images of one scan, its labels among them, in a random affine and elastic deformation, the border repeated.

    Args:
        images: (1, C, *spatial), floating; averages over ``level`` voxels along each axis.
        options: whose ``affine`` and ``elastic`` count.
        random: where the numbers come from.
        shared: with the other scan of the pair.
        shift: standard deviation of a random translation, in voxels before they were averaged, as ``elastic``.
        apart: how many of the last channels have zeros around them instead, as labels of what does not go on there.
        level: see ``images``.

    Returns:
        Images of the same shape and dtype.
    """
    size = images.shape[2:]
    if options.affine or shift or shared != Shared():
        matrix = random_affine(size, options.affine, random)
        linear, offset = matrix[:, :-1], matrix[:, -1]  # views
        if shift:
            offset += shift / level * torch.randn(len(size), generator=random)
        centre = (torch.tensor(size) - 1) / 2
        for axis in shared.mirrored:
            linear[axis] *= -1
            offset[axis] = 2 * centre[axis] - offset[axis]
        offset += (1 - 1 / shared.scale) * linear @ centre  # which stays where it is
        linear /= shared.scale
        images = _around(images, apart, affine_warp, matrix[None].to(images.dtype))
    if options.elastic:
        noise = box_average(torch.randn(1, len(size), *size, generator=random), max(1, RADIUS // level), passes=PASSES)
        images = _around(images, apart, warp, (options.elastic / level / noise.std() * noise).to(images.dtype))
    return images


def _around(images: Tensor, apart: int, moved: Callable[..., Tensor], by: Tensor) -> Tensor:
    """Moved, the last channels with zeros around them."""
    groups = torch.split(images, [images.shape[1] - apart, apart], 1)
    parts = [
        moved(group, by, padding=padding)
        for group, padding in zip(groups, ("border", "zeros"), strict=True)
        if group.shape[1]
    ]
    return torch.cat(parts, 1)


def random_affine(size: Sequence[int], strength: float, random: torch.Generator) -> Tensor:
    """An affine map that brings corners of the image inwards, as label-reg draws it (Hu et al., MedIA 2018).

    Args:
        size: spatial size of the image.
        strength: how far at most along each axis, each corner on its own, as a fraction of half the size.
        random: where the numbers come from.

    Returns:
        (ndim, ndim + 1) float32, output voxel -> image voxel.
    """
    ndim = len(size)
    # One corner and its neighbour along each axis, in coordinates from -1 to 1; as many points as unknowns.
    corners = torch.cat([torch.zeros(1, ndim), torch.eye(ndim)]).double() * 2 - 1
    moved = corners * (1 - strength * torch.rand(corners.shape, generator=random, dtype=torch.float64))
    to_unit = torch.diag(torch.tensor([2 / max(s - 1, 1) for s in size] + [1.0], dtype=torch.float64))
    to_unit[:ndim, ndim] = -1
    points = torch.cat([corners, torch.ones(ndim + 1, 1)], 1)
    unit = torch.eye(ndim + 1, dtype=torch.float64)
    unit[:ndim] = torch.linalg.solve(points, moved).T
    matrix: Tensor = torch.linalg.inv(to_unit) @ unit @ to_unit
    return matrix[:ndim].float()


def random_intensities(image: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """An image from 0 to 1 of another gamma, gain and noise.

    Args:
        image: floating, of any shape.
        strength: standard deviation of the logarithms of gamma and gain, and ten times that of the noise.
        random: where the numbers come from.
    """
    gamma, gain = (strength * torch.randn(2, generator=random)).exp()
    noise = strength / 10 * torch.randn(image.shape, generator=random)
    changed: Tensor = gain * image.clamp(min=0) ** gamma + noise
    return changed
