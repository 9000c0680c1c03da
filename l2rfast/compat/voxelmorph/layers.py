"""`voxelmorph.torch.layers` of VoxelMorph 0.2 (Balakrishnan et al., IEEE TMI 2019; Dalca et al., MedIA 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import transforms
from ...errors import InputError

_MODES = {"bilinear": "linear", "nearest": "nearest"}


class SpatialTransformer(nn.Module):
    """Warps an image of a fixed size by a displacement field in voxels; outside the image is 0.

    Args:
        size: spatial size of images and fields, 2-D or 3-D.
        mode: ``"bilinear"`` or ``"nearest"``.

    The buffer ``grid`` is not used; it is there because the weights of VoxelMorph 0.2's networks contain it.

    Raises:
        InputError: an unknown mode; from a call, what `l2rfast.warp` raises.
    """

    grid: Tensor

    def __init__(self, size: Sequence[int], mode: str = "bilinear") -> None:
        super().__init__()
        if mode not in _MODES:
            raise InputError(f"mode: expected one of {', '.join(_MODES)}, got {mode!r}")
        self.mode = mode
        axes = torch.meshgrid([torch.arange(side, dtype=torch.float32) for side in size], indexing="ij")
        self.register_buffer("grid", torch.stack(axes)[None])

    def forward(self, src: Tensor, flow: Tensor) -> Tensor:
        return transforms.warp(src, flow, mode=_MODES[self.mode], padding="zeros")


class VecInt(nn.Module):
    """Integrates a velocity field in ``nsteps`` squarings, with zeros outside, which is what 0.2 does."""

    def __init__(self, inshape: Sequence[int], nsteps: int) -> None:
        super().__init__()
        if nsteps < 0:
            raise InputError(f"nsteps: expected an integer >= 0, got {nsteps}")
        self.nsteps = nsteps
        self.scale = 1.0 / (2**nsteps)
        self.transformer = SpatialTransformer(inshape)

    def forward(self, vec: Tensor) -> Tensor:
        vec = vec * self.scale
        for _ in range(self.nsteps):
            vec = vec + self.transformer(vec, vec)
        return vec


class ResizeTransform(nn.Module):
    """Resizes a displacement field and its vectors by ``1 / vel_resize``; at the smaller size it is multiplied."""

    def __init__(self, vel_resize: float, ndims: int) -> None:
        super().__init__()
        self.factor = 1.0 / vel_resize
        self.mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[ndims]

    def forward(self, x: Tensor) -> Tensor:
        if self.factor == 1:
            return x
        if self.factor > 1:
            x = self.factor * x
        x = F.interpolate(x, align_corners=True, scale_factor=self.factor, mode=self.mode)
        return x if self.factor > 1 else self.factor * x


__all__ = ["ResizeTransform", "SpatialTransformer", "VecInt"]
