"""Vectors and tensors that turn with what they are in: directions of fibres, diffusion tensors.

Resampled, they would still point as they did in the moving image. A vector v there is J^-1 v in fixed, J being the
derivative of places of moving by places of fixed, its length kept: it is a direction. A tensor keeps its eigenvalues;
its first eigenvector turns as a vector does, the second as near to that as it can at a right angle to the first:
preservation of principal directions (Alexander et al., IEEE TMI 2001).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import _check
from .world import Grid, Transform

SLAB = 8  # planes at a time
_ROWS, _COLUMNS = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)  # of a symmetric tensor's upper triangle
_ORDERS = {"itk": (0, 1, 3, 2, 4, 5), "fsl": (0, 1, 2, 3, 4, 5), "mrtrix": (0, 3, 5, 1, 2, 4)}  # of that, in files
_SYSTEMS = {"itk": "lps", "fsl": "fsl", "mrtrix": "ras"}
VECTORS, TENSORS = ("ras", "lps", "voxels", "fsl"), tuple(_ORDERS)


def reorient(values: Tensor, transform: Transform, fixed: Grid, moving: Grid, convention: str) -> Tensor:
    """Turn what was resampled from moving to fixed.

    Args:
        values: (3, D, H, W) vectors or (6, D, H, W) symmetric tensors at the voxels of fixed, as moving has them.
        transform: from fixed to moving, by which they were resampled.
        fixed, moving: the grids.
        convention: the axes of vectors: ``"ras"``, ``"lps"``, ``"voxels"`` (along the axes of the grid) or ``"fsl"``
            (these, the first turned round where the affine's determinant is positive); the order and the axes of
            tensors: ``"itk"`` (xx, xy, yy, xz, yz, zz in LPS: NIfTI's intent 1005, ANTs), ``"fsl"`` (xx, xy, xz, yy,
            yz, zz in its axes: dtifit) or ``"mrtrix"`` (xx, yy, zz, xy, xz, yz in RAS: dwi2tensor).

    Returns:
        The same shape and convention, on fixed.

    Raises:
        InputError: an unknown convention.
    """
    tensors = len(values) == len(_ROWS)
    _check.choice("tensors" if tensors else "vectors", convention, TENSORS if tensors else VECTORS)
    system = _SYSTEMS[convention] if tensors else convention
    before, after = (torch.from_numpy(_axes(system, grid.affine)) for grid in (moving, fixed))
    slabs = []
    for slab, slope in zip(torch.split(values, SLAB, 1), _slopes(transform, fixed), strict=True):
        stored = slab.double().flatten(1).T  # (M, 3 or 6)
        if tensors:
            rows, columns = (list(map(of.__getitem__, _ORDERS[convention])) for of in (_ROWS, _COLUMNS))
            matrices = stored.new_zeros(len(stored), 3, 3)
            matrices[:, rows, columns] = matrices[:, columns, rows] = stored
            turned = _turned_tensors(before @ matrices @ before.T, slope)
            found = (after.T @ turned @ after)[:, rows, columns]
        else:
            found = _turned(stored @ before.T, slope) @ after
        slabs.append(found.T.reshape(slab.shape).to(values.dtype))
    return torch.cat(slabs, 1)


def _axes(system: str, affine: np.ndarray) -> np.ndarray:
    """(3, 3): components in a system of axes -> RAS."""
    if system in ("ras", "lps"):
        return np.diag([-1.0, -1, 1] if system == "lps" else [1.0, 1, 1])
    axes: np.ndarray = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    flip = -1.0 if system == "fsl" and np.linalg.det(axes) > 0 else 1.0
    return axes * [flip, 1, 1]


def _slopes(transform: Transform, fixed: Grid) -> Iterator[Tensor]:
    """(M, 3, 3) float64 of each slab of fixed: derivatives of places of moving by those of fixed, in RAS."""
    disp = transform.on(fixed).disp[0]
    to, back = torch.from_numpy(fixed.affine[:3, :3]), torch.from_numpy(np.linalg.inv(fixed.affine[:3, :3]))
    for start in range(0, disp.shape[1], SLAB):
        first, last = max(0, start - 1), min(disp.shape[1], start + SLAB + 1)
        part = disp[:, first:last].double()
        slope = torch.zeros(3, *part.shape, dtype=torch.float64)
        for axis in range(3):
            if part.shape[1 + axis] > 1:
                slope[axis] = torch.gradient(part, dim=1 + axis)[0]
        own = slope[:, :, start - first : start - first + min(SLAB, disp.shape[1] - start)]
        by_voxel = own.flatten(2).permute(2, 1, 0) + torch.eye(3, dtype=torch.float64)
        yield to @ by_voxel @ back


def _turned(vectors: Tensor, slope: Tensor) -> Tensor:
    """(M, 3) vectors of moving as they are in fixed, of the same length."""
    found = torch.linalg.solve_ex(slope, vectors[:, :, None]).result[:, :, 0]
    length = found.norm(dim=1, keepdim=True)
    return torch.where(length > 0, found * (vectors.norm(dim=1, keepdim=True) / length), vectors)


def _turned_tensors(tensors: Tensor, slope: Tensor) -> Tensor:
    """(M, 3, 3), likewise."""
    values, axes = torch.linalg.eigh(tensors.nan_to_num())
    first, second = _turned(axes[:, :, 2], slope), _turned(axes[:, :, 1], slope)
    second = second - (second * first).sum(1, keepdim=True) * first
    second = second / second.norm(dim=1, keepdim=True)
    frame = torch.stack([torch.linalg.cross(first, second), second, first], 2)
    found: Tensor = frame @ (values[:, :, None] * frame.mT)
    return found
