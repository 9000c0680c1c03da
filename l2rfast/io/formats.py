"""Which reader a path is for: by what its name ends with, and whether it is a folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage

from . import dicom, itk, nifti, pictures, zarr
from .reading import check_file

# What names of images end with, in data sets too, but for one file of DICOM: that is a slice.
FORMATS = (nifti.NIFTI, nifti.MGH, itk.SUFFIXES, pictures.SUFFIXES)


def open_image(name: str, path: str | os.PathLike[str]) -> SpatialImage:
    """An image whose values are not read yet.

    Args:
        name: of the argument, with the path, for messages.
        path: a folder is an OME-Zarr if its name ends with .zarr, else a DICOM series; a name that ends like none of
            these formats is for nibabel, which has more.

    Raises:
        InputError: the file is missing, damaged or of another kind, or a library is missing that reads it.
    """
    with np.errstate(all="ignore"):  # what is not finite is found where it counts
        return _opened(name, Path(path))


def _opened(name: str, file: Path) -> SpatialImage:
    check_file(name, file)
    if zarr.is_zarr(file):
        return zarr.open_zarr(name, file)
    if os.path.isdir(file):  # of a path that is too long pathlib raises
        return dicom.open_series(name, file)
    readers = {
        pictures.SUFFIXES: pictures.open_picture,
        dicom.SUFFIXES: dicom.open_slice,
        itk.SUFFIXES: itk.open_itk,
    }
    for suffixes, reader in readers.items():
        if file.name.lower().endswith(suffixes):
            return reader(name, file)
    return nifti.open_nifti(name, file)


def read_shape(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """The shape of an image by its header, with all of its axes.

    Args:
        path: of any format of docs/reference/input.md.

    Raises:
        InputError: the file is missing, damaged or of another kind, or a library is missing that reads it.
    """
    return tuple(open_image(str(path), path).shape)
