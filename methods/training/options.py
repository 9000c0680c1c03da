"""The options that training has for every method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from l2rfast import _check
from l2rfast.errors import InputError

from ..options import make_plain, option

LARGEST_SEED = 2**63 - 1  # that PyTorch's generators take, signed


@dataclass(frozen=True)
class TrainerOptions:
    """How to train. The texts beside the fields are those of the command line."""

    steps: int = option(1000, "Steps of the optimiser, at most.")
    batch: int = option(1, "Pairs per step and process.")
    rate: float = option(1e-4, "Step size of Adam.")
    cosine: bool = option(False, "Have the step size fall to 0 over the steps, along a cosine.")
    every: int = option(100, "Steps between two checkpoints, each with a validation.")
    patience: int = option(0, "Stop after so many validations without a better one; 0: never.")
    affine: float = option(0.0, "Augmentation: how far corners move inwards, as a fraction of half the size.")
    scale: float = option(0.0, "Augmentation: standard deviation of the logarithm of a scaling of both scans.")
    elastic: float = option(0.0, "Augmentation: standard deviation of a smooth random displacement, voxels.")
    mirror: tuple[int, ...] = option((), "Augmentation: axes along which half of the pairs are mirrored, e.g. 0,2.")
    intensity: float = option(0.0, "Augmentation: standard deviation of log gamma and log gain.")
    seed: int = option(0, "Of the random numbers.")
    precision: str = option("auto", "float32, bfloat16, or auto: bfloat16 on GPUs and on CPUs with AMX.")
    bad_scans: str = option("stop", "At a scan that cannot be used: stop, or skip it and say so.")

    @property
    def free(self) -> tuple[str, ...]:
        """What may differ when a run is resumed."""
        return ("every", "patience", "bad_scans", *(["steps"] if not self.cosine else []))

    def __post_init__(self) -> None:
        make_plain(self)
        for name, least in (("steps", 1), ("batch", 1), ("every", 1), ("patience", 0)):
            _check.at_least(name, getattr(self, name), least, most=math.inf)
        _check.at_least("seed", self.seed, 0, most=LARGEST_SEED)
        for name, below in (
            ("rate", 1e36),  # beyond, a step of Adam is no float32
            ("affine", 1.0),
            ("scale", 10.0),  # of a logarithm: beyond, its exponential may be no number
            ("elastic", math.inf),
            ("intensity", math.inf),
        ):
            value = getattr(self, name)
            if not (_check.is_number(value) and 0 <= value < below):
                raise InputError(f"{name}: expected a number from 0 to {below}, got {value!r}")
        for name, known in (("precision", ("auto", "float32", "bfloat16")), ("bad_scans", ("stop", "skip"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")

    def check_axes(self, size: Sequence[int]) -> None:
        """
        Raises:
            InputError: scans of that size do not have the axes that are to be mirrored.
        """
        if not set(self.mirror) <= set(range(len(size))):
            raise InputError(f"mirror: expected axes from 0 to {len(size) - 1}, got {self.mirror}")
