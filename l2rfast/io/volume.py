"""Values and where they lie, and how grids lie to each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

SAME = 0.1  # voxels that two headers may differ at a corner and mean one grid: quaternions and float32 are not exact


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map and where it lies.

    Attributes:
        data: (D, H, W), axes i, j, k of the file, or (H, W); float32 for an image, uint8, int16 or int32 for labels.
        affine: (4, 4) float64, voxel -> RAS millimetres.
        mask: (D, H, W) or (H, W) bool, where the image counts; everywhere when None. What is elsewhere may be NaN.
        placed: whether somebody said where it lies: pictures, arrays and headers without codes do not.
        flat: of a slice, which axis of its file has a length of 1; None where none has. Its direction is the affine's
            third.
        contrasts: further images of the same, float32 in the shape of data.
    """

    data: Tensor
    affine: np.ndarray
    mask: Tensor | None = None
    placed: bool = True
    flat: int | None = None
    contrasts: tuple[Tensor, ...] = ()

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis, in millimetres."""
        return tuple(np.linalg.norm(self.affine[:3, : self.data.ndim], axis=0).tolist())


def axes_in_itk(volume: Volume) -> int:
    """2 for a slice along the first two axes of the world, which ITK takes for an image of two axes; else 3.

    A coronal, sagittal or oblique slice, of which an image of two axes would not say where it lies, has three, and so
    has one whose file has an axis of length 1.

    Args:
        volume: the image, of two axes or three.
    """
    if volume.flat is not None:
        return 3
    normal = volume.affine[2, :2] / np.linalg.norm(volume.affine[:3, :2], axis=0)
    return 2 if volume.data.ndim == 2 and np.allclose(normal, 0, atol=1e-4) else 3


def onto_plane(matrix: np.ndarray, fixed: Volume, moving: Volume) -> np.ndarray:
    """The (4, 4) map of the world as ITK needs it, of one that is for slices wherever they lie across their planes.

    Where ITK has them in three axes, the middle of fixed has to meet moving's plane.

    Args:
        matrix: (4, 4), from the world of fixed to that of moving, RAS millimetres.
        fixed, moving: the images.

    Returns:
        (4, 4), of the same.
    """
    if axes_in_itk(fixed) == fixed.data.ndim:
        return matrix
    middle = [*((np.array(fixed.data.shape) - 1) / 2), 0, 1]
    off = np.linalg.solve(moving.affine, matrix @ fixed.affine @ middle)[2]
    found = matrix.copy()
    found[:3, 3] -= off * moving.affine[:3, 2]
    return found


def voxel_to_voxel(fixed_affine: np.ndarray, moving_affine: np.ndarray, ndim: int = 3) -> np.ndarray:
    """The matrix that takes a voxel of the fixed grid to the voxel of the moving grid at its place.

    Args:
        fixed_affine, moving_affine: (4, 4), from voxels to RAS millimetres.
        ndim: 2 or 3.

    Returns:
        (ndim, ndim + 1), as `l2rfast.affine_warp` takes it.
    """
    return np.linalg.solve(moving_affine, fixed_affine)[:ndim][:, [*range(ndim), 3]]


def apart(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> tuple[float, float]:
    """How far two affines put the farthest corner of a grid apart: in millimetres, and in voxels of the first."""
    ends = [(0, n - 1) for n in shape[:3]] + [(0,)] * (3 - len(shape))
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)]).T
    off = ((other - one) @ corners)[:3]
    return float(np.linalg.norm(off, axis=0).max()), float(np.abs(np.linalg.solve(one[:3, :3], off)).max())
