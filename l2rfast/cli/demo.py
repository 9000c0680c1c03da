"""``make demo``: registers two real brain scans, or two synthetic ones where those cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from .. import data
from ..data.synthetic import anatomies
from ..errors import InputError
from ..io import Volume, write_image
from .job import run

# The structures of the public tutorial's evaluation (FreeSurfer labels).
STRUCTURES = [
    2,
    3,
    4,
    7,
    8,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    24,
    28,
    31,
    41,
    42,
    43,
    46,
    47,
    49,
    50,
    51,
    52,
    53,
]
STRUCTURES += [54, 60, 63]

Pair = dict[str, torch.Tensor]


def real_pair() -> Pair:
    """Brain ``subject_1`` (moving) and ``test_scan`` (fixed) of the Learn2Reg 2019 tutorial and VoxelMorph."""
    subject = "tutorials2019/unsupervised/data/3D/subject_1"
    fixed = np.load(data.fetch("voxelmorph/data/test_scan.npz"), allow_pickle=False)
    image = np.load(data.fetch(f"{subject}_vol.npz"), allow_pickle=False)["vol_data"]
    labels = np.load(data.fetch(f"{subject}_seg.npz"), allow_pickle=False)["vol_data"]

    def structures(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.where(np.isin(values, STRUCTURES), values, 0).astype(np.uint8))

    return {
        "fixed": torch.from_numpy(fixed["vol"].astype(np.float32)),
        "moving": torch.from_numpy(image.astype(np.float32)),
        "fixed_labels": structures(fixed["seg"]),
        "moving_labels": structures(labels),
    }


def synthetic_pair(size: int = 96) -> Pair:
    """A generated anatomy (moving) and a deformed one (fixed)."""
    template, subject = anatomies(2, (size, size, size), structures=4, deformation=0.02)
    return {
        "fixed": subject.image[0, 0],
        "moving": template.image[0, 0],
        "fixed_labels": subject.labels[0, 0],
        "moving_labels": template.labels[0, 0],
    }


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        pair = real_pair()
    except InputError as error:
        print(f"No real scans: {error}\nRegistering two synthetic ones instead.")
        pair = synthetic_pair()
    scans = folder / "scans"
    scans.mkdir(parents=True, exist_ok=True)
    files = {name: scans / f"{name}.nii.gz" for name in pair}
    for name, values in pair.items():
        write_image(files[name], Volume(values, np.eye(4)))  # the public files have no affine: voxels of 1 mm
    run(
        files["fixed"],
        files["moving"],
        folder / "result",
        fixed_labels=files["fixed_labels"],
        moving_labels=files["moving_labels"],
    )


if __name__ == "__main__":
    main()
