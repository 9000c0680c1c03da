"""``make demo``: registers two real brain scans, or two synthetic ones where those cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from .. import data
from ..errors import InputError
from ..filters import box_average
from ..io import Volume, write_image
from ..transforms import warp
from .register import run

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
    """A head of nested ellipsoids and a smoothly deformed, noisy copy of it."""
    random = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    labels = torch.zeros(size, size, size, dtype=torch.uint8)
    # Centre and half-axes of each structure, the outer ones first.
    for label, (centre, half) in enumerate(
        [
            ((0, 0, 0), (0.75, 0.85, 0.7)),
            ((0, 0, 0), (0.65, 0.75, 0.6)),
            ((0.1, -0.1, 0.25), (0.25, 0.4, 0.12)),
            ((0.1, -0.1, -0.25), (0.25, 0.4, 0.12)),
            ((-0.35, 0.3, 0), (0.15, 0.2, 0.3)),
        ],
        start=1,
    ):
        distance = sum(((g - c) / h) ** 2 for g, c, h in zip((z, y, x), centre, half, strict=True))
        labels[distance < 1] = label
    intensity = torch.tensor([0.0, 0.9, 0.5, 0.2, 0.25, 0.7])[labels.long()]

    def scan(image: torch.Tensor) -> torch.Tensor:
        return image + 0.01 * torch.randn(image.shape, generator=random)

    field = torch.randn(1, 3, size, size, size, generator=random)
    field = box_average(field, size // 8, passes=3)
    field *= size / 6 / field.abs().amax()
    moving = warp(box_average(intensity[None, None], 1), field)[0, 0]
    return {
        "fixed": scan(box_average(intensity[None, None], 1)[0, 0]),
        "moving": scan(moving),
        "fixed_labels": labels,
        "moving_labels": warp(labels[None, None], field, mode="nearest")[0, 0],
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
