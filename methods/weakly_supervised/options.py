"""What a label-reg to be trained is, and on what loss it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from l2rfast import _check
from l2rfast.errors import InputError
from l2rfast.label_losses import MEASURES, SIGMAS
from l2rfast.losses import bending_energy, diffusion_energy, gradient_energy

from ..options import from_preset, make_plain, option
from ..training.options import TrainerOptions
from .model import KINDS, Architecture
from .nets import LEVELS, Plan

ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "bending": bending_energy,
    "diffusion": diffusion_energy,
    "gradient-l2": gradient_energy,
    "gradient-l1": partial(gradient_energy, norm="l1"),
}


@dataclass(frozen=True)
class TrainingOptions:
    """What network to train, and on what loss; that of moments is its own, Dice and cross-entropy of two label maps.
    The texts beside the fields are those of the command line.
    """

    network: str = option("moments", "moments (of few cases), or label-reg's local, global (affine), composite.")
    width: int = option(12, "Channels at the first level; published: 32, of global 8.")
    norm: str = option("instance", "instance, group, or batch-as-published.")
    levels: tuple[int, ...] = option((0, 1, 2, 3, 4), "Whose fields are added up; fewer fine ones are smoother.")
    start: str = option("centre", "Where fields start: centre of both grids, or corner, as published.")
    resolution: int = option(2, "Voxels that are averaged before the network sees them: 1 to 4.")
    similarity: str = option("dice", f"Of the labels: {', '.join(MEASURES)}.")
    sigmas: tuple[float, ...] = option(SIGMAS, "Voxels, the scales of the labels.")
    energy: str = option("bending", f"Of the field: {', '.join(ENERGIES)}.")
    smoothness: float = option(0.5, "Weight of the energy.")
    shift: float = option(0.0, "Augmentation: standard deviation of a random translation of moving, voxels.")
    fixed_shift: float = option(0.0, "Likewise of fixed: networks that see it in one place learn the place.")
    weights: str = option("", "Of a network to start from, as it is made: .safetensors, or prostates.")

    def __post_init__(self) -> None:
        make_plain(self)
        for name, allowed in (("network", KINDS), ("similarity", MEASURES), ("energy", ENERGIES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        _check.at_least("resolution", self.resolution, 1, most=4)
        for name in ("smoothness", "shift", "fixed_shift"):
            _check.not_negative(name, getattr(self, name))
        if not self.levels or not set(self.levels) <= set(range(LEVELS + 1)):
            raise InputError(f"levels: expected some from 0 to {LEVELS}, got {self.levels!r}")
        if not self.sigmas or not all(_check.is_number(sigma) and sigma >= 0 for sigma in self.sigmas):
            raise InputError(f"sigmas: expected numbers >= 0, got {self.sigmas}")

    def architecture(self, size: tuple[int, ...]) -> Architecture:
        """For fixed images of that size."""
        plan = Plan(len(size), self.width, self.norm, self.levels)
        sized = self.network in ("global", "composite")
        return Architecture(self.network, plan, self.start, self.resolution, size if sized else ())


# What differs from the defaults of `TrainingOptions` and `TrainerOptions`. The first is what is taken unless told.
PRESETS: dict[str, dict[str, Any]] = {
    # Few cases, on two cores, in minutes: what is best of those tried on pairs that were held out (bench.prostates).
    "cpu": {
        "shift": 4.0,
        "fixed_shift": 2.0,
        "steps": 1000,
        "batch": 4,
        "rate": 2e-3,
        "cosine": True,
        "affine": 0.1,
        "scale": 0.15,
        "elastic": 1.0,
        "intensity": 0.2,
    },
    # Hu et al., MedIA 2018, and its public code: for a hundred cases, and a GPU.
    "published": {
        "network": "local",
        "width": 32,
        "norm": "batch-as-published",
        "start": "corner",
        "resolution": 1,
        "steps": 10000,
        "batch": 4,
        "rate": 1e-5,
        "affine": 0.1,
    },
}


def of_preset(name: str = "cpu") -> tuple[TrainingOptions, TrainerOptions]:
    """The options of a preset, for Python.

    Raises:
        InputError: none of that name.
    """
    return from_preset(PRESETS, name, TrainingOptions, TrainerOptions)
