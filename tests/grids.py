"""Grids of images that lie anywhere."""

from __future__ import annotations

import numpy as np


def oblique(spacing: tuple[float, ...], origin: tuple[float, ...], flip: bool, seed: int = 1) -> np.ndarray:
    """The (4, 4) affine of turned axes, mirrored where that is asked for."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    if (np.linalg.det(q) < 0) != flip:
        q[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = q * spacing, origin
    return affine
