"""The tutorial's 2-D network: features at a quarter of the resolution, the costs of a window of displacements."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2rfast import _check, correlation, mean_field, min_convolution, shift_labels, soft_argmin
from l2rfast.errors import InputError

from .. import weights
from ..options import make_plain
from ..refine import pool
from .points import Choice, Prediction, check_images, spread

FORMAT = "l2rfast.methods.discrete.TutorialNet2d"
QUARTER = 4


@dataclass(frozen=True)
class Flat:
    """What a `TutorialNet2d` is made of.

    Attributes:
        radius: of the window, in voxels of the features: 4 times as many of the image. Published: 4, or 5.
        channels: of the features.
    """

    radius: int = 4
    channels: int = 24

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("radius", "channels"):
            if not _check.is_integer(getattr(self, name)) or getattr(self, name) < 1:
                raise InputError(f"{name}: expected a positive integer, got {getattr(self, name)!r}")


class TutorialNet2d(nn.Module):
    """Displacement fields of two 2-D images of one size.

        cost = scale * correlation(fixed, moving) of features
        displacement = soft_argmin(mean_field(min_convolution(cost)))

    Min-convolution is pooled, as published. The mean field is an average over 5 x 5 control points, twice, and does
    not see the images: what it published was never said.

    Args:
        architecture: see `Flat`.

    Attributes:
        ndim: of the images.
        multiple: of which sizes have to be.
    """

    ndim, multiple = 2, QUARTER

    def __init__(self, architecture: Flat | None = None) -> None:
        super().__init__()
        self.architecture = a = architecture or Flat()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 5, stride=2, padding=4, dilation=2), nn.BatchNorm2d(32), nn.PReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.PReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.PReLU()),
            *(nn.Conv2d(64, a.channels, 1), nn.Sigmoid()),
        )
        self.sharpness = nn.Parameter(torch.tensor(10.0))

    def forward(self, fixed: Tensor, moving: Tensor, *, probabilities: bool = False) -> Prediction:
        """Args:
            fixed, moving: (N, 1, H, W), of one shape, floating, from 0 to 1; sizes are multiples of 4.
            probabilities: return them as well.

        Raises:
            InputError: other shapes.
        """
        check_images(fixed, moving, 2, QUARTER)
        if any(s % QUARTER for s in fixed.shape[2:]):
            raise InputError(f"fixed, moving: expected sizes that are multiples of 4, got {tuple(fixed.shape[2:])}")
        at, to = (self.features(x).to(x.dtype) for x in (fixed, moving))  # which autocast may have narrowed
        cost = correlation(at, to, self.architecture.radius)
        cost = mean_field(min_convolution(cost, method="pooled"), radius=2)
        found = soft_argmin(cost, self.sharpness, probabilities=probabilities, entropy=True)
        points = found[0] * QUARTER
        choice = Choice(points, found[-1], found[1] if probabilities else None, None)
        return Prediction(spread(points, fixed.shape[2:], align_corners=False), (choice,))

    def labels(self, choices: Sequence[Choice], fixed: Tensor, moving: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See `PDDNet.labels`."""
        for choice in choices:
            assert choice.probabilities is not None
            yield pool(fixed, QUARTER), shift_labels(choice.probabilities, pool(moving, QUARTER))

    def save(self, path: str | os.PathLike[str]) -> None:
        """See `PDDNet.save`."""
        weights.save(self, self.architecture, FORMAT, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TutorialNet2d:
        """See `PDDNet.load`."""
        described = weights.describe(path, FORMAT, Flat)
        return weights.made(lambda: cls(described), path)
