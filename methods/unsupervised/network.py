"""VoxelMorph's network: a U-Net on two images, a displacement or velocity field out.

Balakrishnan et al., "An unsupervised learning model for deformable medical image registration", CVPR 2018, and
"VoxelMorph: a learning framework for deformable medical image registration", IEEE TMI 2019; velocities and the
probabilistic head: Dalca et al., "Unsupervised learning of probabilistic diffeomorphic registration for images and
surfaces", MedIA 2019.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from l2rfast import _check, affine_warp, integrate_velocity
from l2rfast.errors import InputError

from .. import weights
from ..options import make_plain
from ..refine import pool, resample_field
from .upsampling import conv_of_upsampled

FORMAT = "l2rfast.methods.unsupervised.VoxelMorph"
SLOPE = 0.2  # of LeakyReLU
COARSE = 2  # voxels of the images to one that a coarse network sees, along every axis
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class Architecture:
    """What a network is made of. The defaults are the published 3-D ones (vm2).

    Attributes:
        ndim: 2 or 3.
        encoder: channels of the convolutions with stride 2, each at half the resolution of the one before.
        decoder: channels of the convolutions that go back up: one at every resolution of the encoder, one more at the
            last of these, half the resolution; all others at the full one.
        velocity: whether the field that comes out is a stationary velocity, to be integrated; else a displacement.
        half: whether it is integrated at half the resolution.
        steps: of scaling and squaring.
        coarse: whether it sees the images at half their resolution, as averages of 2 voxels along every axis: an eighth
            of the work in 3-D.
        probabilistic: whether there is a second field, the logarithm of the first one's variance, of which samples are
            drawn in training.
    """

    ndim: int = 3
    encoder: tuple[int, ...] = (16, 32, 32, 32)
    decoder: tuple[int, ...] = (32, 32, 32, 32, 32, 16, 16)
    velocity: bool = False
    half: bool = False
    steps: int = 7
    probabilistic: bool = False
    coarse: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        if self.ndim not in (2, 3):
            raise InputError(f"ndim: expected 2 or 3, got {self.ndim!r}")
        for name, least in (("encoder", 1), ("decoder", len(self.encoder) + 2)):
            widths = getattr(self, name)
            if len(widths) < least or not all(_check.is_integer(width) and width > 0 for width in widths):
                raise InputError(f"{name}: expected at least {least} positive integers, got {widths!r}")
        _check.at_least("steps", self.steps, 0)
        if (self.half or self.probabilistic) and not self.velocity:
            raise InputError("half, probabilistic: expected a network with velocity=True")

    @property
    def multiple(self) -> int:
        """Of what sizes of images have to be multiples."""
        return int(2 ** (len(self.encoder) + self.coarse))


class Prediction(NamedTuple):
    """What a network says of two images.

    Attributes:
        displacement: (N, ndim, *spatial), in voxels of the images: moving at x + displacement(x) corresponds to fixed
            at x.
        inverse: the displacement field the other way, of velocities only.
        field: (N, ndim, *spatial): what the last convolution gave, the displacement or the mean velocity; of a coarse
            network at half the resolution, in voxels of that.
        log_variance: of that velocity, likewise, of a probabilistic network only.
    """

    displacement: Tensor
    inverse: Tensor | None
    field: Tensor
    log_variance: Tensor | None


class VoxelMorph(nn.Module):
    """VoxelMorph's network.

    Args:
        architecture: see `Architecture`.
        checkpointed: keep nothing below the full resolution for the backward pass, but compute it again: less memory,
            more time.
    """

    def __init__(self, architecture: Architecture | None = None, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.architecture = a = architecture or Architecture()
        kind = nn.Conv3d if a.ndim == 3 else nn.Conv2d
        inputs = [2, *a.encoder]
        self.encoder = nn.ModuleList(kind(i, o, 3, stride=2) for i, o in zip(inputs, a.encoder, strict=False))
        # At every resolution on the way up, what was there on the way down is put beside.
        beside = [0, *reversed(a.encoder[:-1]), 0, 2, *[0] * len(a.decoder)]
        inputs = [a.encoder[-1], *a.decoder]
        self.decoder = nn.ModuleList(
            kind(i + s, o, 3, padding=1) for i, s, o in zip(inputs, beside, a.decoder, strict=False)
        )
        self.field = kind(a.decoder[-1], a.ndim, 3, padding=1)
        self.log_variance = kind(a.decoder[-1], a.ndim, 3, padding=1) if a.probabilistic else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Those of He et al. 2015; fields start at next to nothing, and variances at e^-10."""
        for layer in (*self.encoder, *self.decoder):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        starts: list[tuple[Any, float, float]] = [(self.field, 1e-5, 0), (self.log_variance, 1e-10, -10)]
        for layer, deviation, start in starts[: 1 + self.architecture.probabilistic]:
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.constant_(layer.bias, start)

    def forward(self, moving: Tensor, fixed: Tensor) -> Prediction:
        """Args:
            moving, fixed: (N, 1, *spatial), floating, of one dtype; sizes are multiples of `Architecture.multiple`.

        Raises:
            InputError: other shapes.
        """
        a = self.architecture
        check_images(moving, fixed, a.ndim, a.multiple)
        images = torch.cat([moving, fixed], 1)
        seen = pool(images, COARSE) if a.coarse else images
        features = self._features(seen.contiguous(memory_format=LAYOUTS[a.ndim]))
        field = self.field(features).to(moving.dtype).contiguous()  # which autocast may have narrowed
        if not a.velocity:
            return Prediction(self._fine(field), None, field, None)
        log_variance, velocity = None, field
        if self.log_variance is not None:
            log_variance = self.log_variance(features).to(moving.dtype).contiguous()
            if self.training:
                velocity = field + torch.exp(log_variance / 2) * torch.randn_like(field)
        there, back = (self._fine(self._integrated(v)) for v in (velocity, -velocity))
        return Prediction(there, back, field, log_variance)

    def _fine(self, field: Tensor) -> Tensor:
        """In voxels of the images, at them."""
        if not self.architecture.coarse:
            return field
        return resample_field(field, [COARSE * s for s in field.shape[2:]], COARSE, 1)

    def _features(self, images: Tensor) -> Tensor:
        depth = len(self.architecture.encoder)
        if self.checkpointed and torch.is_grad_enabled():
            x: Tensor = checkpoint(self._coarse, images, use_reentrant=False, preserve_rng_state=False)
        else:
            x = self._coarse(images)
        for i, layer in enumerate(self.decoder[depth + 1 :]):
            x = self._up(layer, x, images) if i == 0 else self._level(layer, x)
        return x

    def _coarse(self, images: Tensor) -> Tensor:
        """Up to half the resolution of the images."""
        x, skips, depth = images, [], len(self.architecture.encoder)
        for down in self.encoder:
            # A stride of 2 on an even size: as TensorFlow pads what is to keep its size, behind alone.
            x = F.leaky_relu_(down(F.pad(x, [0, 1] * self.architecture.ndim)), SLOPE)
            skips.append(x)
        skips.pop()
        for i, layer in enumerate(self.decoder[: depth + 1]):
            x = self._up(layer, x, skips.pop()) if 0 < i < depth else self._level(layer, x)
        return x

    @staticmethod
    def _level(layer: nn.Module, x: Tensor) -> Tensor:
        return F.leaky_relu_(layer(x), SLOPE)

    @staticmethod
    def _up(layer: Any, x: Tensor, beside: Tensor) -> Tensor:
        return F.leaky_relu_(conv_of_upsampled(x, beside, layer.weight, layer.bias), SLOPE)

    def _integrated(self, velocity: Tensor) -> Tensor:
        a = self.architecture
        if not a.half:
            return integrate_velocity(velocity, a.steps)
        size = velocity.shape[2:]
        coarse = _resampled(velocity, [s // 2 for s in size], 2) / 2
        return 2 * _resampled(integrate_velocity(coarse, a.steps), size, 0.5)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a ``.safetensors`` file and the architecture to a ``.json`` beside it.

        Raises:
            InputError: another ending, or a place that cannot be written.
        """
        weights.save(self, self.architecture, FORMAT, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> VoxelMorph:
        """Read what `save` wrote.

        Raises:
            InputError: files that are absent, damaged, or not of such a network.
        """
        described = weights.describe(path, FORMAT, Architecture)
        return weights.made(lambda: cls(described), path)

    @classmethod
    def from_keras(cls, path: str | os.PathLike[str]) -> VoxelMorph:
        """Read the published Keras weights (``.h5``), 2-D or 3-D; which, the shapes tell.

        Raises:
            InputError: a file that is absent or damaged, or of another network.
        """
        from .weights import from_keras

        return from_keras(path)


def check_images(moving: Tensor, fixed: Tensor, ndim: int, multiple: int) -> None:
    """
    Raises:
        InputError: other than two images of one channel and of one size of multiples.
    """
    if moving.shape != fixed.shape or moving.ndim != 2 + ndim or moving.shape[1] != 1:
        raise InputError(
            f"moving, fixed: expected two of one shape (N, 1, {'D, ' * (ndim - 2)}H, W), "
            f"got {tuple(moving.shape)} and {tuple(fixed.shape)}"
        )
    if any(size % multiple for size in moving.shape[2:]) or not moving.numel():
        raise InputError(f"moving, fixed: expected sizes that are multiples of {multiple}, got {moving.shape[2:]}")


def _resampled(field: Tensor, size: list[int] | torch.Size, step: float) -> Tensor:
    """At positions ``step`` voxels from each other, from the first on; linear, the border repeated."""
    matrix = step * torch.eye(field.shape[1], field.shape[1] + 1, device=field.device, dtype=field.dtype)
    return affine_warp(field, matrix[None], size)
