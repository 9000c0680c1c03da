"""What the examples of the documentation show: the pair of brains, as files and as slices, and prostates.

With ``L2RFAST_DOCS=small`` in the environment they are generated heads of few voxels, for tests and quick builds.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..io import Volume, write_image
from . import fetch
from .brains import Pair, real_pair, synthetic_pair
from .synthetic import anatomies

SMALL = os.environ.get("L2RFAST_DOCS") == "small"
"""Whether examples are run at their small size, as tests do."""


@dataclass(frozen=True)
class Files:
    """Two scans and their label maps, as NIfTI files in one folder."""

    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path


def brains() -> Pair:
    """The pair: two real brains of 160 x 192 x 224 voxels, or generated heads of 64 x 64 x 64.

    Raises:
        InputError: the scans are not on this machine and cannot be fetched.
    """
    return synthetic_pair(64) if SMALL else real_pair()


@cache
def pair() -> Files:
    """The pair as files, with voxels of 1 mm, in a folder that is removed when the process ends.

    Raises:
        InputError: as `brains`.
    """
    volumes = brains()
    place = folder()
    files = {name: place / f"{name}.nii.gz" for name in volumes}
    for name, values in volumes.items():
        write_image(files[name], Volume(values, np.eye(4)))  # the public files have no affine
    return Files(**files)


def slices(every: int = 2) -> dict[str, Tensor]:
    """Slices of the pair across the last axis, of its middle 40 %.

    Args:
        every: how many slices further the next one is.

    Returns:
        For each name of `brains`, (N, 1, D, H).

    Raises:
        InputError: as `brains`.
    """
    volumes = brains()
    width = volumes["fixed"].shape[2]
    chosen = range(round(0.3 * width), round(0.7 * width), every)
    return {name: values[:, :, list(chosen)].movedim(2, 0)[:, None].contiguous() for name, values in volumes.items()}


@cache
def prostates() -> Path:
    """MR and ultrasound of the prostate with labels: a folder of ``{mr,us}_{images,labels}/*.nii.gz``.

    The eight cases of the Learn2Reg 2019 tutorial, or four generated ones in two contrasts, in a folder that is removed
    when the process ends. Labels are stacks of masks, the first of which is the gland.

    Raises:
        InputError: as `brains`.
    """
    if not SMALL:
        kinds = ("mr_images", "us_images", "mr_labels", "us_labels")
        files = [fetch(f"tutorials2019/weakly/data/train/{kind}/case{i:06}.nii.gz") for i in range(8) for kind in kinds]
        return files[0].parent.parent
    place = folder()
    subjects = anatomies(8, (36, 36, 36), structures=3, contrasts=2, deformation=0.06)
    for i, subject in enumerate(subjects):
        kind = ("mr", "us")[i % 2]
        gland = subject.labels[0, 0] > 0
        masks = torch.stack([gland, subject.labels[0, 0] == 1], -1)
        for what, values in (("images", subject.image[0, 0]), ("labels", masks.to(torch.uint8))):
            file = place / f"{kind}_{what}" / f"case{i // 2}.nii.gz"
            file.parent.mkdir(exist_ok=True)
            write_image(file, Volume(values, np.eye(4)))
    return place


def folder() -> Path:
    """A new one, removed when the process ends."""
    made = Path(tempfile.mkdtemp(prefix="l2rfast-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
