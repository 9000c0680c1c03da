"""Displacement fields in NIfTI, as ITK has them."""

from __future__ import annotations

import os
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .headers import affine_of
from .nifti import open_nifti, write_volumes
from .source import read_values
from .volume import Volume, axes_in_itk

LPS = np.diag([-1.0, -1.0, 1.0])  # RAS from it, and it from RAS
_VECTOR = 1007  # the NIfTI intent that ITK takes as it stands, LPS
NIFTYREG, SPM = b"NREG_TRANS", b"Mapping"
OTHERS = {NIFTYREG: "NiftyReg", SPM: "SPM"}  # by the name of the intent: vectors in RAS, places, or velocities
_DISPLACEMENT = 1006  # which ITK turns from RAS to LPS


def write_displacement(path: str | os.PathLike[str], disp: Tensor, affine: np.ndarray, flat: int | None = None) -> None:
    """Write a displacement field for ITK, ANTs, 3D Slicer and ITK-SNAP.

    Args:
        path: .nii or .nii.gz.
        disp: ([1,] 3, D, H, W) or ([1,] 2, H, W), in voxels of the fixed grid.
        affine: (4, 4) of the fixed grid; what `write_image` says of a sheared one holds here too.
        flat: of a slice, see `Volume`.

    The file has shape (D, H, W, 1, 3), or (H, W, 1, 1, 2), which ITK takes for an image of two axes; of a slice that
    has three in ITK, see `axes_in_itk`, it has the shape (1, H, W, 1, 3), as ITK takes (H, W, 1, 1, 3) for two axes. It
    is float32, of vector intent (1007), and holds LPS millimetres.

    Raises:
        InputError: another shape or suffix.
        OSError: the file cannot be written.
    """
    field = disp[0] if disp.ndim in (4, 5) and disp.shape[:2] in ((1, 2), (1, 3)) else disp
    ndim = field.ndim - 1
    if ndim not in (2, 3) or field.shape[0] != ndim:
        raise InputError(f"disp: expected shape ([1,] 3, D, H, W) or ([1,] 2, H, W), got {tuple(disp.shape)}")
    if axes_in_itk(Volume(field[0], affine, flat=flat)) > ndim:
        field = torch.cat([torch.zeros_like(field[:1]), field])[:, None]
        affine, ndim = affine[:, [2, 0, 1, 3]], 3
    matrix, size = (LPS @ affine[:3, :3])[:ndim, :ndim], [*field.shape[1:], 1][:3]
    field = field.detach().cpu().float()
    # One after the other, as they lie in the file: all of them in millimetres would be as much memory as the field.
    parts = (_transform(row[None], field).reshape(*size, 1).numpy() for row in matrix)
    write_volumes(path, parts, (*size, 1, ndim), np.dtype(np.float32), affine, more={"intent_code": _VECTOR})


def read_displacement(path: str | os.PathLike[str]) -> tuple[Tensor, np.ndarray]:
    """Read a displacement field as `write_displacement`, ITK, ANTs and surfa (its kind ``disp_ras``) write it.

    The file has shape (D, H, W, 1, 3), (D, H, W, 3) or (H, W, 1, 1, 2), and its intent says what the vectors are: 1007
    LPS millimetres, 1006 RAS millimetres, both as ITK has it, whatever the header's unit of length.

    Args:
        path: of the file, NIfTI.

    Returns:
        The field, (1, 3, D, H, W) or (1, 2, H, W) float32, in voxels of the fixed grid, and the affine (4, 4) of that.

    Raises:
        InputError: the file cannot be read, or is not such a field.
    """
    name = str(path)
    image = open_nifti(name, path)
    intent = image.header["intent_code"].item() if isinstance(image, nib.Nifti1Pair) else None
    ndim = 2 if image.shape[2:] == (1, 1, 2) else 3
    if (ndim == 3 and image.shape[3:] not in ((1, 3), (3,))) or intent not in (_VECTOR, _DISPLACEMENT):
        raise InputError(
            f"{name}: expected a displacement field of shape (D, H, W, 1, 3) or (D, H, W, 3) whose intent says what it "
            f"holds, {_VECTOR} for LPS or {_DISPLACEMENT} for RAS millimetres, got shape {image.shape} and intent "
            f"{intent}; a field without intent may be in voxels, and is to be multiplied by the affine first"
        )
    header: Any = image.header
    if (other := OTHERS.get(header["intent_name"].item())) is not None:
        raise InputError(
            f"{name}: expected a displacement field of ITK's, got one of {other}'s: l2rfast.read_transform reads it"
        )
    affine, _ = affine_of(name, image, stored=True)
    world = LPS if intent == _VECTOR else np.eye(3)
    vectors = read_values(name, image, scaled=True).reshape(*image.shape[:ndim], ndim).movedim(-1, 0)
    return in_voxels(vectors, affine, world), affine


def in_voxels(vectors: Tensor, affine: np.ndarray, world: np.ndarray) -> Tensor:
    """(1, ndim, *spatial) in voxels of a grid, of (ndim, *spatial) in mm of a world that has those RAS axes."""
    ndim = len(vectors)
    return _transform(np.linalg.inv(world[:ndim, :ndim] @ affine[:ndim, :ndim]), vectors).unsqueeze(0)


def _transform(matrix: np.ndarray, field: Tensor) -> Tensor:
    """An (m, ndim) matrix applied to every vector of an (ndim, *spatial) field: (m, *spatial)."""
    return (torch.from_numpy(matrix).float() @ field.reshape(len(field), -1)).reshape(-1, *field.shape[1:])
