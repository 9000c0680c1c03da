"""DICOM, through SimpleITK: a series of slices in a folder, or one file of one slice.

GDCM in ITK reads the files. Which of them are the volume, and where it lies, is decided here: ITK makes a volume of
slices at unequal distances, with gaps, or of two volumes in one series as well, with a warning at most, and gives a
tilted stack (of a gantry) axes at right angles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage

from ..errors import InputError, notice
from .dicom_elements import check_elements
from .itk import affine_of, array_of, dtype_of, information, simpleitk, text_of
from .reading import check_memory, deferred, reading, silent
from .volume import SAME

SUFFIXES = (".dcm", ".dicom", ".ima")
_SERIES, _SLICE = "a DICOM series in a folder", "a DICOM slice"
_READER = "GDCMImageIO"
_DESCRIPTION = "0008|103e"
_CLASS = b"\x02\x00\x02\x00UI"
_INDEX = "DICOMDIR"
_NAMED = 3  # files in a sentence, the others are counted


def open_slice(name: str, path: Path) -> SpatialImage:
    """One file, whose values are not read yet.

    Raises:
        InputError: the file is missing, damaged or of another kind, or has colours or several frames; SimpleITK is
            missing.
    """
    return _stack(name, [path])


def open_series(name: str, folder: Path) -> SpatialImage:
    """The one series in a folder, whose values are not read yet.

    Slices lie where they say, in the order along their normal; a tilted stack has a sheared affine. What else is in the
    folder is said by `notice`.

    Raises:
        InputError: the folder has no series, several, or damaged files; the slices differ in size or orientation, lie
            at one place, or at distances that put one more than a tenth of a distance off; they have colours or several
            frames; SimpleITK is missing.
    """
    reader = simpleitk(name, _SERIES).ImageSeriesReader
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".") and file.name != _INDEX]
    if damaged := [file.name for file in files if file.is_file() and _is_dicom(file) and not _is_whole(file)]:
        raise InputError(f"{name}: expected {_SERIES}, but damaged is {_some(damaged)}")
    with reading(name, _SERIES, RuntimeError, TypeError), silent():
        found = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))}
    known = {Path(file).name for names in found.values() for file in names}
    classes = {b"", *(_class_of(file) for file in files if file.name in known)}
    lost = [file for file in files if file.name not in known and file.is_file()]
    if damaged := [file.name for file in lost if _is_dicom(file) and _class_of(file) in classes]:
        raise InputError(f"{name}: expected {_SERIES}, but damaged is {_some(damaged)}")
    if not found:
        raise InputError(f"{name}: expected {_SERIES}, but it is empty, damaged or of another kind")
    if len(found) > 1:
        several = ", ".join(f"{uid} ({_description(name, Path(names[0]))})" for uid, names in found.items())
        raise InputError(f"{name}: expected {_SERIES} of its own, got {len(found)} of them: {several}")
    if rest := [file.name for file in files if file.name not in known]:
        notice(f"{name}: not used, as not of its series: {_some(rest)}")
    return _stack(name, [Path(file) for names in found.values() for file in names])


def _stack(name: str, files: Sequence[Path]) -> SpatialImage:
    kind = _SERIES if len(files) > 1 else _SLICE
    with reading(name, kind):
        plain = [check_elements(file) for file in files]
    found = [information(name, kind, _READER, file) for file in files]
    needed = [math.prod(file.GetSize()) * dtype_of(name, file).itemsize for file in found]
    with reading(name, kind):
        if any(size > file.stat().st_size for size, file, known in zip(needed, files, plain, strict=True) if known):
            raise EOFError
    if (frames := max(file.GetSize()[2] for file in found)) > 1:
        raise InputError(f"{name}: expected one slice in a file, got {frames} frames: make NIfTI of them (dcm2niix)")
    dtypes = {dtype_of(name, file) for file in found}
    affines = [affine_of(file) for file in found]
    sizes = {file.GetSize()[:2] for file in found}
    if len(sizes) > 1 or not all(np.allclose(a[:3, :2], affines[0][:3, :2], rtol=0, atol=1e-4) for a in affines):
        raise InputError(f"{name}: expected slices of one size, spacing and orientation, but its {len(files)} differ")
    check_memory(name, 4 * math.prod(next(iter(sizes))) * len(files))
    order = np.argsort([affines[0][:3, 2] @ affine[:3, 3] for affine in affines], kind="stable")
    affine = affines[order[0]].copy()
    if len(files) > 1:
        affine[:3, 2] = _step(name, np.array([affines[i][:3, 3] for i in order]))
    # Slices may be scaled each by its own slope: the dtype of one may not hold another.
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float64)
    read = partial(_values, name, kind, [str(files[i]) for i in order], dtype)
    return SpatialImage(deferred((*sizes.pop(), len(files)), dtype, read), affine)


def _values(name: str, kind: str, files: Sequence[str], stored: np.dtype, dtype: np.dtype | None) -> np.ndarray:
    sitk = simpleitk(name, kind)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO(_READER)
    reader.SetFileNames(files)
    pixels = {np.dtype(np.float32): sitk.sitkFloat32, np.dtype(np.float64): sitk.sitkFloat64}
    reader.SetOutputPixelType(pixels.get(dtype or stored, sitk.sitkUnknown))
    with reading(name, kind, RuntimeError, TypeError), silent():
        return array_of(reader.Execute())


def _step(name: str, places: np.ndarray) -> np.ndarray:
    """From one slice to the next, of (n, 3) places in order."""
    step: np.ndarray = (places[-1] - places[0]) / (len(places) - 1)
    apart = np.linalg.norm(np.diff(places, axis=0), axis=1)
    if apart.min() <= 0.01 * apart.max():
        raise InputError(
            f"{name}: expected one volume, but several slices lie at one place, {len(places)} slices in all: "
            f"make NIfTI of them (dcm2niix)"
        )
    off = np.linalg.norm(places - places[0] - np.arange(len(places))[:, None] * step, axis=1)
    if off.max() > SAME * np.linalg.norm(step):
        raise InputError(
            f"{name}: expected slices at equal distances, got {apart.min():.4g} to {apart.max():.4g} mm: "
            f"some may be missing"
        )
    return step


def _description(name: str, file: Path) -> str:
    """Of a series, by one of its files."""
    return text_of(information(name, _SLICE, _READER, file), _DESCRIPTION) or "no description"


def _is_dicom(file: Path) -> bool:
    """By its name, or what it begins with."""
    return file.suffix.lower() in SUFFIXES or _start(file)[128:132] == b"DICM"


def _is_whole(file: Path) -> bool:
    try:
        check_elements(file)
    except (OSError, ValueError):
        return False
    return True


def _class_of(file: Path) -> bytes:
    """What a DICOM file holds, by the class that its first group names: slices, a report, ...; empty where it does not.

    GDCM does not tell a damaged slice from what is no image.
    """
    _, found, rest = _start(file).partition(_CLASS)
    return rest[2 : 2 + int.from_bytes(rest[:2], "little")] if found else b""


def _start(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(512)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
