"""MetaImage and NRRD, through SimpleITK: the formats are of ITK's family, and its reading of them is what counts.

Voxels are ITK's, the first axis the fastest; its millimetres are LPS, ours RAS. SimpleITK is large, and nothing else
needs it: it is imported where a file of these formats, or of DICOM, is read.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from ..errors import InputError, notice
from .itk_headers import check_meta, check_nrrd
from .reading import deferred, library, reading, silent

_META, _NRRD = "a MetaImage", "an NRRD image"
_META_READER = "MetaImageIO"
_APART = ", with the file of values that it names"
_KINDS = {
    ".mha": (_META, _META_READER),
    ".mhd": (_META + _APART, _META_READER),
    ".nrrd": (_NRRD, "NrrdImageIO"),
    ".nhdr": (_NRRD + _APART, "NrrdImageIO"),
}
SUFFIXES = tuple(_KINDS)
_UNITS = ("ITK_VoxelUnits", *(f"NRRD_units[{axis}]" for axis in range(3)))
_PATIENT = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")  # ITK turns all to LPS


def open_itk(name: str, path: Path) -> SpatialImage:
    """A MetaImage or NRRD, whose values are not read yet.

    Units of length, and spaces that do not say where a patient lies, are said by `notice`: ITK takes no notice of them.

    Raises:
        InputError: the file is missing, damaged or of another kind, or has several numbers for a voxel; SimpleITK is
            missing.
    """
    kind, reader = _KINDS[path.suffix.lower()]
    with reading(name, kind, LookupError):
        (check_meta if reader == _META_READER else check_nrrd)(name, path)
    file = information(name, kind, reader, path)
    if units := {text_of(file, key) for key in _UNITS} - {"", "mm"}:
        notice(f"{name}: its unit of length, {', '.join(sorted(units))}, is taken for millimetres, as ITK does")
    if (space := text_of(file, "NRRD_space") or _PATIENT[0]) not in _PATIENT:
        notice(f"{name}: its axes are taken for left, posterior and superior, as ITK does, where its space is {space}")
    read = partial(_values, name, kind, reader, path)
    return SpatialImage(deferred(file.GetSize(), dtype_of(name, file), read), affine_of(file))


def _values(name: str, kind: str, reader: str, path: Path, dtype: np.dtype | None) -> np.ndarray:
    sitk = simpleitk(name, kind)
    pixels = sitk.sitkFloat32 if dtype == np.float32 else sitk.sitkUnknown  # which is: as they are stored
    with reading(name, kind, RuntimeError, TypeError), silent():
        return array_of(sitk.ReadImage(str(path), pixels, reader))


def information(name: str, kind: str, reader: str, path: Path) -> Any:
    """SimpleITK's reader of a file, which has read all but the voxels.

    Args:
        name: of the argument, with the path.
        kind: what the file is, for messages.
        reader: ITK's name of its own: another might know the file as well, and read it by other rules.
        path: of the file.

    Raises:
        InputError: the file is missing, damaged or of another kind; SimpleITK is missing.
    """
    with reading(name, kind, RuntimeError, TypeError):
        path.stat()
        file = simpleitk(name, kind).ImageFileReader()
        with silent():
            file.SetImageIO(reader)
            file.SetFileName(str(path))
            file.ReadImageInformation()
    return file


def simpleitk(name: str, kind: str) -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    return library(name, "SimpleITK", kind)


def text_of(file: Any, key: str) -> str:
    """What `information` found under a key, of whatever encoding; empty where there is nothing."""
    text: str = file.GetMetaData(key).strip() if file.HasMetaDataKey(key) else ""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def dtype_of(name: str, file: Any) -> np.dtype:
    """Of the one number for each voxel.

    Raises:
        InputError: there are several.
    """
    if (count := file.GetNumberOfComponents()) != 1:
        raise InputError(
            f"{name}: expected one number for each voxel, got {count} (colours, vectors or complex numbers)"
        )
    return array_of(import_module("SimpleITK").Image([1, 1], file.GetPixelIDValue())).dtype


def affine_of(file: Any) -> np.ndarray:
    """The (4, 4) affine of what `information` found, voxel -> RAS millimetres; of two axes, in the plane of z = 0."""
    count, axes = file.GetDimension(), min(file.GetDimension(), 3)
    affine = np.eye(4)
    affine[:axes, :axes] = np.reshape(file.GetDirection(), (count, count))[:axes, :axes] * file.GetSpacing()[:axes]
    affine[:axes, 3] = file.GetOrigin()[:axes]
    affine[:2] *= -1  # LPS
    return affine


def array_of(image: Any) -> np.ndarray:
    """The voxels of SimpleITK's image, axes i, j, k."""
    voxels: np.ndarray = import_module("SimpleITK").GetArrayFromImage(image).T
    return voxels
