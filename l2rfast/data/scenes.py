"""What the examples of the documentation show: the pair of brains, as files and as slices.

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
from torch import Tensor

from .brains import Pair, real_pair, synthetic_pair

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
    from ..io import Volume, write_image

    volumes = brains()
    folder = Path(tempfile.mkdtemp(prefix="l2rfast-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = {name: folder / f"{name}.nii.gz" for name in volumes}
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
