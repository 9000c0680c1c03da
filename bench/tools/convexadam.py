"""ConvexAdam (Siebert et al., 2024), as published and after the line that puts our layers into it."""

from __future__ import annotations

from pathlib import Path

import torch

import l2rfast
from l2rfast.io import Volume

from .fields import Converted, Fields, Ready


def convexadam(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """Its defaults, in float32 (of float16 it says itself that CPUs do not support it)."""
    from convexAdam.convex_adam_MIND import convex_adam_pt

    def run() -> Converted:
        field = convex_adam_pt(fixed.data, moving.data, dtype=torch.float32, device=torch.device("cpu"))
        return lambda: Fields(torch.from_numpy(field).float().movedim(-1, 0)[None].contiguous())  # of (D, H, W, 3)

    return run


def patched(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """The same after ``l2rfast.patch``."""
    call = convexadam(fixed, moving, folder)

    def run() -> Converted:
        with l2rfast.patch("convexadam"):
            return call()

    return run
