"""label-reg as it is trained and used: one of its networks, where fields start, at which resolution it works."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from l2rfast import _check, affine_warp
from l2rfast.errors import InputError
from l2rfast.kernels.common.constants import numbers

from .. import weights
from ..options import make_plain
from ..refine import pool, resample_field
from .moments import MomentsNet
from .nets import CompositeNet, GlobalNet, LocalNet, Plan, affine_field

FORMAT = "l2rfast.methods.weakly_supervised.LabelReg"
KINDS, STARTS = ("moments", "local", "global", "composite"), ("centre", "corner")


@dataclass(frozen=True)
class Architecture:
    """What a `LabelReg` is made of.

    Attributes:
        kind: ``"local"``, ``"global"`` or ``"composite"``, label-reg's; or ``"moments"``, see `MomentsNet`.
        plan: of the network; of a composite one of its LocalNet.
        start: what a network that says nothing does with moving: ``"centre"``, the centres of both grids meet and
            voxels stay as far apart, and the network sees moving like that; or ``"corner"``, the first voxels meet,
            and it sees moving resized to the fixed grid, as published. Moments are of each image as it is.
        level: voxels along each axis that are averaged before the network sees them, 1 to 4.
        size: of the fixed images; the kinds with a fully connected layer need it.
    """

    kind: str = "local"
    plan: Plan = Plan()  # noqa: RUF009 - frozen
    start: str = "centre"
    level: int = 1
    size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        make_plain(self)
        for name, allowed in (("kind", KINDS), ("start", STARTS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        _check.at_least("level", self.level, 1, most=4)
        if self.kind in ("global", "composite") and len(self.size) != self.plan.ndim:
            raise InputError(f"size: expected that of the fixed images for a {self.kind} network, got {self.size!r}")


class LabelReg(nn.Module):
    """Displacement fields of two images on grids of their own.

    Args:
        architecture: see `Architecture`.
    """

    def __init__(self, architecture: Architecture | None = None) -> None:
        super().__init__()
        self.architecture = a = architecture or Architecture()
        if a.kind in ("moments", "local"):
            self.network: nn.Module = (MomentsNet if a.kind == "moments" else LocalNet)(a.plan)
        else:
            size = [s // a.level for s in a.size]
            kind = GlobalNet if a.kind == "global" else CompositeNet
            self.network = kind(size, replace(a.plan))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Args:
            moving: (N, 1, *moving), floating.
            fixed: (N, 1, *fixed), of the same dtype.

        Returns:
            (N, ndim, *fixed) displacement field in voxels of moving: fixed at index x corresponds to moving at x +
            disp(x), whatever the affines of the two say.

        Raises:
            InputError: other shapes.
        """
        a, size = self.architecture, fixed.shape[2:]
        if moving.ndim != a.plan.ndim + 2 or fixed.ndim != moving.ndim:
            raise InputError(
                f"moving, fixed: expected images of {a.plan.ndim} axes, got {moving.ndim - 2} and {fixed.ndim - 2}"
            )
        if a.kind == "moments":
            return self.aligned(self.maps(moving, fixed), size)
        offset = moving.new_zeros(a.plan.ndim)
        if a.start == "centre":
            offset = numbers([(m - f) / 2 for m, f in zip(moving.shape[2:], size, strict=True)], moving)
            shift = torch.cat([torch.ones_like(offset).diag(), offset[:, None]], 1)[None]
            moving = affine_warp(moving, shift, size, padding="zeros")
        field = self._full(self.network(self._seen("moving", moving), self._seen("fixed", fixed)), size)
        return field + offset.to(field).view(-1, *[1] * len(size))

    def maps(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Of the kind ``"moments"``: the logits of the first label in both images, at the network's resolution."""
        assert isinstance(self.network, MomentsNet)
        return self.network.maps(self._seen("moving", moving), self._seen("fixed", fixed))

    def _seen(self, name: str, image: Tensor) -> Tensor:
        """As the network sees it.

        Raises:
            InputError: too few voxels to be averaged.
        """
        level = self.architecture.level
        if min(image.shape[2:]) < level:
            got = " x ".join(map(str, image.shape[2:]))
            raise InputError(f"{name}: expected at least {level} voxels along each axis, which are averaged, got {got}")
        return pool(image, level)

    def aligned(self, maps: tuple[Tensor, Tensor], size: Sequence[int]) -> Tensor:
        """The field of two maps, for a fixed image of that size.

        It is affine, so that it is made at the full resolution: resampling would flatten it at the border.
        """
        assert isinstance(self.network, MomentsNet)
        matrix, level = self.network.matrix(*maps), self.architecture.level
        linear, offset = matrix[..., :-1], matrix[..., -1]
        middle = (level - 1) / 2  # of the voxels that became voxel 0
        offset = level * offset + middle * (1 - linear.sum(-1))
        return affine_field(torch.cat([linear, offset[..., None]], -1), size)

    def _full(self, field: Tensor, size: Sequence[int]) -> Tensor:
        level = self.architecture.level
        return field if level == 1 else resample_field(field, list(size), level, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a ``.safetensors`` file and the architecture to a ``.json`` beside it.

        Raises:
            InputError: another ending, or a place that cannot be written.
        """
        weights.save(self, self.architecture, FORMAT, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelReg:
        """Read what `save` wrote.

        Raises:
            InputError: files that are absent, damaged, or not of such a network.
        """
        described = weights.describe(path, FORMAT, Architecture)
        return weights.made(lambda: cls(described), path)
