"""greedy (Yushkevich et al., https://greedy.readthedocs.io): composed warps by local normalised cross-correlation."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from l2rfast.io import Volume, read_displacement

from .fields import Converted, Fields, Ready, written

OPTIONS = "-d 3 -m NCC 4x4x4 -n 100x50x10"


def greedy(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """Its warps as they are computed, ``-wp 0``: otherwise they are rounded to a tenth of a voxel."""
    return _ready(fixed, moving, folder, affine=False)


def after_affine(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """After its own affine from where the centres of both images meet."""
    return _ready(fixed, moving, folder, affine=True)


def _ready(fixed: Volume, moving: Volume, folder: Path, *, affine: bool) -> Ready:
    from picsl_greedy import Greedy3D

    f, m = written(fixed, moving, folder)
    forward, back, matrix, warped = (str(folder / f"{name}.nii") for name in ("warp", "inverse", "affine", "warped"))
    options = f"{OPTIONS} -i {f} {m} -threads {os.environ.get('OMP_NUM_THREADS', 1)}"

    def execute(command: str) -> None:
        with open(os.devnull, "w") as nowhere:
            Greedy3D().execute(command, out=nowhere)

    def run() -> Converted:
        if affine:
            execute(f"{options} -a -dof 12 -ia-image-centers -o {matrix}")
        execute(f"{options} -wp 0 -o {forward} -oinv {back}" + (f" -it {matrix}" if affine else ""))
        return converted

    def converted() -> Fields:
        execute(f"-d 3 -rf {f} -rm {m} {warped} -r {forward}" + (f" {matrix}" if affine else ""))
        return Fields(
            read_displacement(forward)[0],
            read_displacement(back)[0],
            np.loadtxt(matrix) if affine else np.eye(4),
            torch.from_numpy(np.asarray(nib.load(warped).dataobj, dtype=np.float32)),
        )

    return run
