"""AFNI's transforms: affine maps (.aff12.1D) and warps of 3dQwarp, from the base, here fixed, to the source.

A matrix is twelve numbers, row by row, on one line or on three, in DICOM's axes: LPS millimetres. A warp is a NIfTI
image or a HEAD/BRIK data set of three volumes, displacements in the same axes, to be added. Places are those of axes
that AFNI has set straight: of an oblique image it keeps the first voxel's place and the voxel sizes, and takes the
nearest axes of the body (``ijk_to_dicom`` beside ``ijk_to_dicom_real`` in its headers), whatever is in the image's
matrix. So both images have to be known where one is oblique. AFNI itself was not run: the rules are those of its
documentation and of nitransforms 25.1.0, which reads and writes its matrices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, notice
from ...world import Affine, Displacement, Grid, Transform, compose
from ..formats import open_image
from ..headers import affine_of
from ..nifti import NIFTI, write
from ..source import read_values
from .format import LPS, Format, Grids, head, linear, named

_MATRICES, _DATASETS = (".1d",), (".head", ".brik", ".brik.gz")
_EXTENSION = 4  # AFNI's own in a NIfTI header
_INTENTS = (0, 1007)  # others say that it is something else
_MOST = 2**20  # bytes of a text of matrices


def _knows(file: Path) -> bool:
    if named(file, NIFTI):
        image: Any = open_image(str(file), file)
        codes = [extension.get_code() for extension in image.header.extensions]
        return _EXTENSION in codes and image.shape[3:] in ((3,), (1, 3))
    return named(file, _DATASETS) or (named(file, _MATRICES) and _rows(file) is not None)


def _read(file: Path, grids: Grids) -> Transform:
    if named(file, (*NIFTI, *_DATASETS)):
        return _warp(file, grids)
    rows = _rows(file)
    if rows is None:
        raise ValueError("no rows of numbers")
    if rows.shape == (3, 4):
        rows = rows.reshape(1, 12)
    if rows.shape[1] != 12:
        raise ValueError(f"rows of {rows.shape[1]} numbers, where a matrix has 12, or three rows of 4")
    if len(rows) > 1:
        raise InputError(f"expected one matrix, got {len(rows)}, one for each volume of a series: take out one row")
    matrix = LPS @ np.vstack([rows.reshape(3, 4), [0, 0, 0, 1]]) @ LPS
    before, after = _straightened(grids.fixed), _straightened(grids.moving).inverse
    return compose(before, Affine(matrix), after)


def _warp(file: Path, grids: Grids) -> Transform:
    image: Any = open_image(str(file), file)
    intent = int(image.header["intent_code"]) if named(file, NIFTI) else 0
    if image.shape[3:] not in ((3,), (1, 3)) or intent not in _INTENTS:
        raise ValueError(f"the shape {image.shape} and intent {intent}")
    affine, _ = affine_of(str(file), image, stored=True)
    vectors = read_values(str(file), image, scaled=True).reshape(*image.shape[:3], 3).movedim(-1, 0).clone()
    vectors[:2] *= -1
    straight = _straight(affine)
    field = Displacement.of_world(vectors, straight)
    return compose(Affine(straight @ np.linalg.inv(affine)), field, _straightened(grids.moving).inverse)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    inner = compose(_straightened(grids.fixed).inverse, transform, _straightened(grids.moving))
    if named(file, NIFTI):
        grid = grids.need("fixed", "the voxels are where the warp is written")
        field = inner.on(Grid(grid.size, _straight(grid.affine)))
        # In the axes that are straight; where the voxels truly lie stands in the file's matrix. Without an intent, as
        # that of vectors is ITK's, to which the axes of an oblique image are not straight.
        vectors = (field.vectors.movedim(0, -1) * field.disp.new_tensor([-1, -1, 1])).unsqueeze(3)
        write(file, vectors, grid.affine)
        return
    numbers = (LPS @ linear(inner, "AFNI's .1D") @ LPS)[:3].ravel()
    text = " ".join(f"{number:.17g}" for number in numbers)
    file.write_text(f"# 3dvolreg matrices (DICOM-to-DICOM, row-by-row):\n{text}\n")


def _straightened(grid: Grid | None) -> Affine:
    """From where the voxels of an image are to where AFNI has them; nothing where the image is not known."""
    if grid is None:
        notice("afni: an image is not given, and taken for one that is not oblique")
        return Affine(np.eye(4))
    return Affine(_straight(grid.affine) @ np.linalg.inv(grid.affine))


def _straight(affine: np.ndarray) -> np.ndarray:
    """The axes of the body nearest to those of an image, its voxel sizes, and the place of its first voxel."""
    found = np.eye(4)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / sizes
    found[:3, :3] = np.where(np.abs(cosines) == np.abs(cosines).max(0), np.sign(cosines), 0) * sizes
    found[:3, 3] = affine[:3, 3]
    return found


def _rows(file: Path) -> np.ndarray | None:
    """(M, N) numbers of a text, without its comments; None of others."""
    try:
        lines = head(file, _MOST).decode("ascii").splitlines()
        rows = [[float(number) for number in line.split()] for line in lines if line.strip() and line[0] != "#"]
        return np.array(rows) if rows and len({len(row) for row in rows}) == 1 else None
    except ValueError:
        return None


FORMAT = Format(
    "afni",
    "an affine map (.1D) or a warp of AFNI, from place of base to place of source in LPS mm",
    _knows,
    _read,
    _write,
    (".1D", ".1d", *NIFTI),
)
