"""FSL's warps (.nii, .nii.gz), from place of fixed to place of moving in FSL's millimetres: see `flirt`.

NIfTI of shape (X, Y, Z, 3) on the grid of fixed, intent 2006: displacements, which FNIRT writes, or the places of
moving themselves, which convertwarp writes when asked to. Files do not say which (FSL's programs guess by standard
deviations), so that there are two formats and one of them has to be named.

Of intent 2007 are coefficients of cubic B-splines. Their header holds no place: the pixdim are the voxels of fixed from
one to the next, intent_p1 to intent_p3 the size of those voxels in mm, the offsets of the qform how many there are, and
the sform is the FLIRT matrix with which FNIRT began. It is applied to places of fixed, and displacements are added
afterwards, as FSL's fnirtfileutils does; convertwarp moves the displaced places instead. Cosines (2008) and quadratic
splines (2009), which fslpy does not read either, are refused.

FSL's programs are not here: what is said of them is seen of fslpy 3.29.1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import InputError
from ...world import Displacement, Grid, Transform
from ...world.maps import Map
from ..headers import affine_of
from ..nifti import NIFTI, open_nifti, write_volumes
from ..source import read_values
from .flirt import frame
from .format import Format, Grids, less_places, named
from .spline import Spline

_FIELD, _CUBIC = 2006, 2007
_INTENTS = (_FIELD, _CUBIC, 2008, 2009)
_SUFFIXES = (".nii.gz", ".nii")


def _knows(file: Path, intents: tuple[int, ...]) -> bool:
    return named(file, NIFTI) and _intent(open_nifti(str(file), file)) in intents


def _intent(image: Any) -> int:
    return int(image.header["intent_code"]) if "intent_code" in image.header else 0


def _read(file: Path, grids: Grids) -> Transform:
    image, kind = _opened(file, (_FIELD, _CUBIC))
    if kind == _FIELD:
        values, fixed, start = _values(file, image), _grid(image, grids), np.eye(4)
    else:
        fixed = _reference(image, grids)
        values, start = _between(_values(file, image), image, fixed), np.linalg.inv(image.header.get_sform())
    moving = _moving(grids)
    # A voxel comes to here, and by the displacement, turned from FSL's axes, to its place.
    here = moving @ start @ np.linalg.inv(frame(fixed)) @ fixed.affine
    return Displacement.of_world(less_places(values, fixed.affine - here, _turned(moving)), fixed.affine)


def _read_places(file: Path, grids: Grids) -> Transform:
    image, _ = _opened(file, (_FIELD,))
    fixed = _grid(image, grids)
    vectors = less_places(_values(file, image), fixed.affine, _moving(grids))
    return Displacement.of_world(vectors, fixed.affine)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    fixed = grids.fixed or transform.grid
    if fixed is None:
        raise InputError("fixed: expected the fixed image, at whose voxels the field is written")
    back = np.linalg.inv(_moving(grids))
    here = np.linalg.inv(frame(fixed)) @ fixed.affine
    values = less_places(transform.on(fixed).vectors, here - back @ fixed.affine, _turned(back))
    array = values.movedim(0, -1).numpy()
    write_volumes(file, [array], array.shape, array.dtype, fixed.affine, more={"intent_code": _FIELD})


FORMAT = Format(
    "fnirt", "a warp of FSL's FNIRT, of displacements or of coefficients of cubic B-splines",
    partial(_knows, intents=_INTENTS), _read, _write, _SUFFIXES,
)  # fmt: skip
PLACES = Format(
    "fnirt-absolute", "a warp of FSL's that holds the places of moving", partial(_knows, intents=(_FIELD,)),
    _read_places, None, _SUFFIXES,
)  # fmt: skip


def _opened(file: Path, intents: tuple[int, ...]) -> tuple[Any, int]:
    image: Any = open_nifti(str(file), file)
    intent = _intent(image)
    if intent not in intents or len(image.shape) != 4 or image.shape[3] != 3:
        raise ValueError(f"intent {intent} and the shape {image.shape}")
    return image, intent


def _values(file: Path, image: Any) -> Tensor:
    return read_values(str(file), image, scaled=True).movedim(-1, 0)


def _moving(grids: Grids) -> np.ndarray:
    return frame(grids.need("moving", "the voxels are where FSL counts places from"))


def _turned(matrix: np.ndarray) -> np.ndarray:
    """As it is applied to vectors."""
    linear = matrix.copy()
    linear[:3, 3] = 0
    return linear


def _grid(image: Any, grids: Grids) -> Grid:
    """Of a field: its own, or that of fixed where its header places it nowhere, as of convertwarp before FSL 6.0.5."""
    affine, placed = affine_of("its header", image, stored=True)
    if placed:
        return Grid(image.shape[:3], affine)
    fixed = grids.need("fixed", "the places are not in the header of the field")
    if fixed.size != image.shape[:3]:
        raise InputError(f"fixed: expected the image of the field, {image.shape[:3]} voxels, got {fixed.size}")
    return fixed


def _reference(image: Any, grids: Grids) -> Grid:
    """The grid that coefficients are for."""
    fixed, header = grids.need("fixed", "the voxels are where splines are evaluated"), image.header
    size = tuple(header[f"qoffset_{axis}"].item() for axis in "xyz")
    steps = [header[f"intent_p{k}"].item() for k in (1, 2, 3)]
    if fixed.size != size or not np.allclose(np.linalg.norm(fixed.affine[:3, :3], axis=0), steps, rtol=1e-3):
        raise InputError(
            f"fixed: expected the image of the coefficients, {size} voxels of {steps} mm, got {fixed.size} of "
            f"{np.linalg.norm(fixed.affine[:3, :3], axis=0).tolist()}"
        )
    return fixed


def _between(coefficients: Tensor, image: Any, grid: Grid) -> Tensor:
    """(3, D, H, W) of cubic B-splines: the second control point is at the first voxel, and beyond the last are none."""
    steps = np.array(image.header["pixdim"][1:4], np.float64)
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(f"control points every {steps.tolist()} voxels")
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps
    return Spline(coefficients.double()[None], affine, "constant").vectors(Map(grid.size, np.eye(4)))[0]
