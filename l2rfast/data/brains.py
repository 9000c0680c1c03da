"""The pair of brains that the demo, the examples and the documentation register, and a generated stand-in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import fetch
from .synthetic import anatomies

# The structures of the public tutorial's evaluation (FreeSurfer labels).
STRUCTURES = [2, 3, 4, 7, 8, *range(10, 19), 24, 28, 31, 41, 42, 43, 46, 47, *range(49, 55), 60, 63]

Pair = dict[str, Tensor]
"""``fixed``, ``moving``: (D, H, W) float32; ``fixed_labels``, ``moving_labels``: (D, H, W) uint8."""


def real_pair() -> Pair:
    """Brain ``subject_1`` (moving) and ``test_scan`` (fixed) of the Learn2Reg 2019 tutorial and VoxelMorph."""
    subject = "tutorials2019/unsupervised/data/3D/subject_1"
    fixed = np.load(fetch("voxelmorph/data/test_scan.npz"), allow_pickle=False)
    image = np.load(fetch(f"{subject}_vol.npz"), allow_pickle=False)["vol_data"]
    labels = np.load(fetch(f"{subject}_seg.npz"), allow_pickle=False)["vol_data"]

    def structures(values: np.ndarray) -> Tensor:
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
