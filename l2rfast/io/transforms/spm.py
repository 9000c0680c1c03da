"""SPM's deformations (y_*.nii, iy_*.nii): at every voxel the place of the other image, in RAS millimetres.

NIfTI of shape (X, Y, Z, 1, 3), float32. By ``y_SUBJECT.nii``, on the template's grid, the subject is resampled to the
template: it goes from fixed, the template, to moving, the subject; ``iy_`` goes back. SPM12's segmentation writes them
without intent, with ``Deformation`` or ``Inverse Deformation`` as the description; its Deformations utility with the
intent of vectors, 1007, and the name ``Mapping``. ITK would take such a file for displacements: it is only SPM's.
Places that are not finite are unknown (SPM resamples nothing there): the displacement of the nearest voxel that has one
goes on, and that is said. By the sources of SPM12; SPM itself was not run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, notice
from ...world import Displacement, Grid, Transform
from ..displacements import SPM
from ..nifti import NIFTI, open_nifti, write_volumes
from ..source import read_values
from .format import Format, Grids, less_places, named, sform_first

_VECTORS = 1007
_WITHOUT_INTENT = (b"deformation", b"inverse deformation")  # what descriptions begin with


def _knows(file: Path) -> bool:
    if not named(file, NIFTI):
        return False
    image: Any = open_nifti(str(file), file)
    return image.shape[3:] == (1, 3) and _is_mapping(image.header)


def _is_mapping(header: Any) -> bool:
    if header["intent_code"] == 0:
        return bool(header["descrip"].item().lower().startswith(_WITHOUT_INTENT))
    return bool(header["intent_name"] == SPM)


def _read(file: Path, grids: Grids) -> Transform:
    image: Any = open_nifti(str(file), file)
    if image.shape[3:] != (1, 3):
        raise ValueError(f"the shape {image.shape}")
    affine = sform_first(image, "SPM")
    places = read_values(str(file), image, scaled=True)[..., 0, :].movedim(-1, 0)
    unknown = ~places.isfinite().all(0)
    vectors = less_places(places, affine)
    if unknown.any():
        count = int(unknown.sum())
        if count == unknown.numel():
            raise ValueError("no finite place")
        notice(
            f"{file}: {count} of {unknown.numel()} voxels have no place: the displacement of the nearest one goes on"
        )
        vectors = _continued(vectors, unknown)
    return Displacement.of_world(vectors, affine)


def _continued(vectors: Tensor, unknown: Tensor) -> Tensor:
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(unknown.numpy(), return_distances=False, return_indices=True)
    return vectors[(slice(None), *torch.from_numpy(nearest).long())]


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    grid: Grid | None = grids.fixed or transform.grid
    if grid is None:
        raise InputError("fixed: expected the fixed image, at whose voxels the places are written")
    voxels = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid.size), indexing="ij"))
    voxels += transform.on(grid).disp[0]
    matrix = torch.from_numpy(grid.affine)
    places = (matrix[:3, :3] @ voxels.flatten(1) + matrix[:3, 3:]).view(voxels.shape)
    more: dict[str, float | bytes] = {"intent_code": _VECTORS, "intent_name": SPM, "descrip": b"Deformation field"}
    write_volumes(file, places.numpy(), (*grid.size, 1, 3), np.dtype(np.float32), grid.affine, more=more)


FORMAT = Format("spm", "a deformation of SPM: places of moving in RAS mm", _knows, _read, _write, NIFTI)
