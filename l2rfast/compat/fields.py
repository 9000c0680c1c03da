"""Which warps we do in a library's place."""

from __future__ import annotations

from torch import Tensor

from .. import _sampling, transforms
from .patching import FallThrough

_MODES = {"linear": "linear", "bilinear": "linear", "nearest": "nearest"}


def warped(image: Tensor, disp: Tensor, mode: str, padding: str) -> Tensor | FallThrough:
    """A warp by a displacement field in voxels, which libraries do by `F.grid_sample` with ``align_corners=True``."""
    if mode not in _MODES:
        return FallThrough(f"mode {mode!r}")
    if padding not in _sampling.PADDINGS:
        return FallThrough(f"padding {padding!r}")
    if image.ndim not in (4, 5) or disp.shape != (image.shape[0], image.ndim - 2, *image.shape[2:]):
        return FallThrough("shapes that we do not take")
    if 1 in image.shape[2:] or image.numel() == 0:
        return FallThrough("an axis of one voxel")  # along which the libraries move nothing
    if image.dtype != disp.dtype or not image.is_floating_point() or image.device != disp.device:
        return FallThrough("dtypes or devices that we do not take")
    return transforms.warp(image, disp, mode=_MODES[mode], padding=padding)
