"""A network that compares: features of both images at four resolutions, and at each of them the displacements to which
the costs in a small window point, from coarse to fine.

As PWC-Net (Sun et al., CVPR 2018) and PDD-Net (Heinrich, MICCAI 2019) do. The features are MIND-SSC (Heinrich et al.,
MICCAI 2013), which do without a contrast, and beside them what convolutions of these have learned: it registers before
it is trained, and needs little training. Velocities are added up, and integrated at the end: fields without folds.
Every step is that from fixed to moving less that from moving to fixed, halved: with the images exchanged the field is
the inverse, and between two that are one it is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2rfast import _check, affine_warp, correlation, integrate_velocity, mind_ssc, soft_argmin, warp
from l2rfast.errors import InputError
from l2rfast.filters import box_average

from .. import weights
from ..options import make_plain
from ..refine import pool, resample_field
from .network import LAYOUTS, SLOPE, Prediction, check_images

FORMAT = "l2rfast.methods.unsupervised.Pyramid"
LEARNED = Path(__file__).with_name("learned.safetensors")  # learned.md beside it is its card
LEVELS = 4  # at 1/16, 1/8, 1/4 and 1/2 of the resolution of the images
FINEST = 2  # voxels of the images to one of the last level
DILATIONS = (1, 1, 2, 1)  # of MIND at each level, whose patches are of 3 voxels
STEPS = 5  # of scaling and squaring, of which velocities are short enough
SHARPNESS = 30.0  # of the soft minimum over a window, before training
SMALL = 0.02  # standard deviation of the weights of what is learned beside MIND, before training


@dataclass(frozen=True)
class Plan:
    """What a pyramid is made of.

    Attributes:
        ndim: 2 or 3.
        width: channels of the convolutions.
        learned: features that are learned, at each level.
        radii: of the windows of displacements that are compared at each level, in voxels of it.
        passes: how often at each level.
        smoothing: radius at each level of the two box averages of what is found.
    """

    ndim: int = 3
    width: int = 16
    learned: tuple[int, ...] = (12, 12, 12, 6)
    radii: tuple[int, ...] = (2, 2, 2, 1)
    passes: tuple[int, ...] = (2, 2, 2, 2)
    smoothing: tuple[int, ...] = (1, 1, 2, 2)

    def __post_init__(self) -> None:
        make_plain(self)
        if self.ndim not in (2, 3):
            raise InputError(f"ndim: expected 2 or 3, got {self.ndim!r}")
        _check.at_least("width", self.width, 1)
        for name, least in (("learned", 1), ("radii", 1), ("passes", 0), ("smoothing", 0)):
            values = getattr(self, name)
            if len(values) != LEVELS or not all(_check.is_integer(value) and value >= least for value in values):
                raise InputError(f"{name}: expected {LEVELS} integers of at least {least}, got {values!r}")

    @property
    def multiple(self) -> int:
        """Of what sizes of images have to be multiples."""
        return int(FINEST * 2 ** (LEVELS - 1))

    @property
    def channels(self) -> int:
        """Of MIND-SSC."""
        return 12 if self.ndim == 3 else 4


class Pyramid(nn.Module):
    """See the module.

    Args:
        plan: see `Plan`.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan = plan or Plan()
        kind = nn.Conv3d if plan.ndim == 3 else nn.Conv2d
        width, coarse = plan.width, range(LEVELS - 1)
        self.enter = nn.ModuleList(kind(plan.channels, width, 3, padding=1) for _ in coarse)
        # Beside what is seen at a level, what was made of the coarser one.
        self.join = nn.ModuleList(kind(width * (1 + (k > 0)), width, 3, padding=1) for k in coarse)
        self.deepen = nn.ModuleList(kind(width, width, 3, padding=1) for _ in coarse)
        self.last = kind(plan.channels + width, width, 1)  # where there are most voxels
        self.learned = nn.ModuleList(kind(width, number, 1) for number in plan.learned)
        self.shares = nn.Parameter(torch.ones(LEVELS, plan.channels))  # of the channels of MIND
        self.log_sharpness = nn.Parameter(torch.full((LEVELS,), SHARPNESS).log())
        for layer in (*self.enter, *self.join, *self.deepen, self.last):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE, nonlinearity="leaky_relu")
        for layer in self.learned.modules():
            if isinstance(layer, kind):
                nn.init.normal_(layer.weight, std=SMALL)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def architecture(self) -> Plan:
        return self.plan

    def forward(self, moving: Tensor, fixed: Tensor) -> Prediction:
        """Args:
            moving, fixed: (N, 1, *spatial), floating, of one dtype; sizes are multiples of `Plan.multiple`.

        Returns:
            The field is the velocity at half the resolution, in voxels of that.

        Raises:
            InputError: other shapes.
        """
        plan = self.plan
        check_images(moving, fixed, plan.ndim, plan.multiple)
        of_moving, of_fixed = (self._features(image) for image in (moving, fixed))
        velocity = moving.new_zeros(moving.shape[0], plan.ndim, *of_fixed[0].shape[2:])
        for k, (here, there) in enumerate(zip(of_fixed, of_moving, strict=True)):
            if k:
                velocity = resample_field(velocity, here.shape[2:], 2, 1)
            for _ in range(plan.passes[k]):
                velocity = velocity + (self._step(k, here, there, velocity) - self._step(k, there, here, -velocity)) / 2
        size = moving.shape[2:]
        displacement, inverse = (
            resample_field(integrate_velocity(v, STEPS), size, FINEST, 1) for v in (velocity, -velocity)
        )
        return Prediction(displacement, inverse, velocity, None)

    def _step(self, level: int, here: Tensor, there: Tensor, velocity: Tensor) -> Tensor:
        """The displacements from here to where the features there, warped, are most alike; smooth."""
        warped = warp(there, integrate_velocity(velocity, STEPS))
        costs = correlation(here, warped, self.plan.radii[level], padding="border", smoothing=1)
        found = soft_argmin(costs, self.log_sharpness[level].exp())
        assert isinstance(found, Tensor)
        return box_average(found, self.plan.smoothing[level], passes=2)

    def coarsest(self, image: Tensor) -> Tensor:
        """What the first level compares.

        Args:
            image: (N, 1, *spatial), floating, at 1/8 of the resolution, of even sizes.

        Returns:
            (N, channels, *spatial / 2) features.
        """
        return self._level(0, mind_ssc(image, 1, DILATIONS[0], pool=2), None)[0]

    def _features(self, image: Tensor) -> list[Tensor]:
        """From the coarsest level on."""
        found: list[Tensor] = []
        context: Tensor | None = None
        for k, seen in enumerate(_descriptors(image)):
            features, context = self._level(k, seen, context)
            found.append(features)
        return found

    def _level(self, k: int, seen: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features of a level, of its descriptors and the context of the coarser one; and its context."""
        plan = self.plan
        centred = (seen - 0.5).contiguous(memory_format=LAYOUTS[plan.ndim])
        if k < LEVELS - 1:
            x = F.leaky_relu(self.enter[k](centred), SLOPE)
            if context is not None:
                x = torch.cat([x, _finer(context, x.shape[2:])], 1)
            x = F.leaky_relu(self.join[k](x), SLOPE)
            x = F.leaky_relu(self.deepen[k](x), SLOPE) + x
        else:
            assert context is not None
            x = F.leaky_relu(self.last(torch.cat([centred, _finer(context, seen.shape[2:])], 1)), SLOPE)
        shares = self.shares[k].view(1, -1, *[1] * plan.ndim)
        # Autocast may have narrowed what is learned.
        return torch.cat([seen * shares, self.learned[k](x).to(seen.dtype)], 1).contiguous(), x

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a ``.safetensors`` file and the plan to a ``.json`` beside it.

        Raises:
            InputError: another ending, or a place that cannot be written.
        """
        weights.save(self, self.plan, FORMAT, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pyramid:
        """Read what `save` wrote.

        Raises:
            InputError: files that are absent, damaged, or not of such a network.
        """
        described = weights.describe(path, FORMAT, Plan)
        return weights.made(lambda: cls(described), path)


def shipped() -> Pyramid:
    """The network that comes with the package, in single precision."""
    return Pyramid.load(LEARNED).eval()


def _descriptors(image: Tensor) -> list[Tensor]:
    """MIND-SSC (N, channels, *spatial) at every level, from the coarsest on: of images that are halved, and of all but
    the finest averaged over 2 voxels once more."""
    with torch.no_grad():
        halved = [pool(image, FINEST)]
        for _ in range(LEVELS - 2):
            halved.append(pool(halved[-1], 2))
        images = [*reversed(halved), halved[0]]
        pools = [2] * (LEVELS - 1) + [1]
        return [
            mind_ssc(each, 1, dilation, pool=blocks)
            for each, dilation, blocks in zip(images, DILATIONS, pools, strict=True)
        ]


def _finer(image: Tensor, size: Sequence[int]) -> Tensor:
    """At twice the resolution, linear between the centres of voxels."""
    ndim = image.ndim - 2
    step = torch.cat([0.5 * torch.eye(ndim), torch.full((ndim, 1), -0.25)], 1)
    return affine_warp(image.contiguous(), step.to(image)[None], size)
