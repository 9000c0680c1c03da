"""Generated anatomies: data that is always there, with the truth known.

Random label maps from smooth noise, deformed by random diffeomorphisms, and images painted from them, after SynthMorph
(Hoffmann et al., IEEE TMI 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _check
from ..errors import InputError
from ..fields import integrate_velocity
from ..filters import box_average
from ..transforms import warp


@dataclass(frozen=True)
class Anatomy:
    """One subject.

    Attributes:
        image: (1, 1, *spatial) float32, about 0 to 1, 0 the background.
        labels: (1, 1, *spatial) uint8: 0 the background, structures from 1 on.
        displacement: (1, ndim, *spatial) float32, in voxels: labels at x are those of the template at x +
            displacement(x). It is the field that registers the template (moving) to this subject (fixed).
    """

    image: Tensor
    labels: Tensor
    displacement: Tensor


def anatomies(
    count: int,
    size: Sequence[int],
    *,
    structures: int = 8,
    contrasts: int = 1,
    deformation: float = 0.05,
    noise: float = 0.02,
    centred: bool = False,
    seed: int = 0,
) -> list[Anatomy]:
    """Subjects of one random anatomy, the same for the same arguments.

    Args:
        count: how many; the first is the template, which is not deformed.
        size: (H, W) or (D, H, W), at least 16 along every axis.
        structures: how many labels, up to 255.
        contrasts: how many ways to paint them, which the subjects take in turns.
        deformation: standard deviation of the components of the velocities, as a fraction of the shortest side.
        noise: standard deviation of that added to the images.
        centred: whether the mean of the velocities of the others is taken from each, so that the template has the mean
            of their shapes.
        seed: of the random numbers.

    Raises:
        InputError: an argument out of range.
    """
    size = tuple(_check.plain(size))
    if len(size) not in (2, 3) or min(size) < 16:
        raise InputError(f"size: expected (H, W) or (D, H, W), at least 16 each, got {size}")
    count, structures, contrasts = (
        _check.at_least(name, value, 1)
        for name, value in (("count", count), ("structures", structures), ("contrasts", contrasts))
    )
    if structures > 255:
        raise InputError(f"structures: expected at most 255, got {structures}")
    random = torch.Generator().manual_seed(seed)
    coarse = max(1, min(size) // 12)
    template = _label_map(size, structures, coarse, random)
    # Intensities of the structures, far apart and in an order of its own for each contrast; 0 the background.
    levels = torch.linspace(0.25, 1, structures)
    palettes = [
        torch.cat([torch.zeros(1), levels[torch.randperm(structures, generator=random)]]) for _ in range(contrasts)
    ]
    drawn = [
        (
            smooth_noise((1, len(size), *size), coarse, random) * (deformation * min(size) if i else 0),
            torch.randn(template.shape, generator=random),
        )
        for i in range(count)
    ]
    mean = sum(velocity for velocity, _ in drawn) / (count - 1) if centred and count > 1 else 0
    subjects = []
    for i, (velocity, grain) in enumerate(drawn):
        displacement = integrate_velocity(velocity - mean if i else velocity)
        labels = warp(template, displacement, mode="nearest")
        painted = box_average(palettes[i % contrasts][labels.long()], 1)
        subjects.append(Anatomy(painted + noise * grain, labels, displacement))
    return subjects


def smooth_noise(shape: Sequence[int], radius: int, random: torch.Generator) -> Tensor:
    """White noise after three box averages.

    Args:
        shape: (N, C, *spatial).
        radius: of the averages, voxels.
        random: where the numbers come from.

    Returns:
        float32, each channel of mean 0 and standard deviation 1.
    """
    values = box_average(torch.randn(tuple(shape), generator=random), radius, passes=3)
    spatial = list(range(2, values.ndim))
    return (values - values.mean(spatial, keepdim=True)) / values.std(spatial, keepdim=True)


def _label_map(size: tuple[int, ...], structures: int, radius: int, random: torch.Generator) -> Tensor:
    """(1, 1, *spatial): a body of random outline, every voxel of it of the structure whose noise is the largest."""
    axes = torch.meshgrid(*(torch.linspace(-1.4, 1.4, s) for s in size), indexing="ij")
    outline = torch.stack(axes).square().sum(0) + 0.2 * smooth_noise((1, 1, *size), radius, random)
    labels = 1 + smooth_noise((1, structures, *size), radius, random).argmax(1, keepdim=True)
    return torch.where(outline < 1, labels, 0).to(torch.uint8)
