"""Rigid and affine registration: the map that a deformable one would start from is the result."""

from __future__ import annotations

from typing import Any

import torch

from l2rfast.errors import InputError

from .method import DEFORMABLE, Found, Method, Pair
from .stages import Stages

TRANSFORMS = ("rigid", "affine", DEFORMABLE)


def linear(transform: str, method: str, preset: str, **options: Any) -> Method:
    """The method that adds no deformation.

    Args:
        transform: ``"rigid"`` or ``"affine"``.
        method, preset, options: of a deformable registration; expected as they are when nobody chooses them.

    Raises:
        InputError: one of them was chosen.
    """
    chosen: dict[str, tuple[Any, Any]] = {"method": (method, "discrete"), "preset": (preset, "default")}
    chosen |= {name: (value, None) for name, value in options.items()}
    for name, (value, usual) in chosen.items():
        if value != usual:
            raise InputError(f"{name}: a registration that is only {transform} has none, got {value!r}")
    return Method({}, lambda name, image, mask: image, _still, transform=transform)


def _still(pair: Pair, stages: Stages) -> Found:
    size = pair.fixed.shape[2:]
    still = torch.zeros(1, len(size), *size)
    return Found(still, still.clone())
