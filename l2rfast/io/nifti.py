"""NIfTI files: read, with what else nibabel reads, and written with a header that has one reading."""

from __future__ import annotations

import logging
import math
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.imageclasses import all_image_classes
from nibabel.spatialimages import HeaderDataError, SpatialImage
from torch import Tensor

from ..errors import InputError, notice
from . import hdf5
from .reading import check_file, in_order, opened, reading, room

NIFTI, MGH = (".nii", ".nii.gz"), (".mgz", ".mgh")
_UNPACKING: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # which isal declares as an instance
_LONGEST = 2**26  # bytes of the extensions of a header: DICOM headers and protocols have a few million
_BLOCK = 2**22  # bytes that are compressed at a time


def open_nifti(name: str, path: str | os.PathLike[str]) -> SpatialImage:
    """An image of any format that nibabel knows, whose values are not read yet.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    said: list[str] = []
    with reading_nifti(name, path):
        os.stat(path)  # where there is none, no kind knows it either
        if os.fspath(path).startswith("~"):
            path = os.path.join(os.getcwd(), path)  # else nibabel looks for a user of that name
        sniff = None
        for kind in (each for each in all_image_classes if issubclass(each, SpatialImage)):
            known, sniff = kind.path_maybe_image(path, sniff)
            if known:
                break
        if not known:
            raise ImageFileError
        if kind is nib.MGHImage:
            _check_mgh(path)
        if kind is nib.Minc2Image:
            with hdf5.opened(Path(path)):  # which leads to no other file
                pass
        odd = _check_extensions(name, kind, path)
        with warnings.catch_warnings() if odd else nullcontext():
            if odd:
                warnings.simplefilter("ignore", UserWarning)  # that it is read all the same
            image: SpatialImage = _lenient(kind, said).from_filename(path, mmap=False)  # the file may change, or go
    for text in dict.fromkeys(said):
        notice(f"{name}: of its header, {text.split(';')[0]}: it is read as ITK does")
    return image


def _check_mgh(path: str | os.PathLike[str]) -> None:
    """That there can be as many voxels as a header says, behind which nibabel looks for what is told of the scanner.

    Raises:
        EOFError: there are fewer.
    """
    with opened(path) as file:
        sizes = np.frombuffer(file.read(20), ">i4")[1:].tolist()
    if len(sizes) < 4 or min(sizes) < 0 or math.prod(sizes) > room(path):
        raise EOFError


def _check_extensions(name: str, kind: Any, path: str | os.PathLike[str]) -> bool:
    """Of a header of NIfTI, which nibabel reads whole, however long they say they are: one below 0 is all there is.

    Returns:
        Whether one is of a length that is not a multiple of 16, of which nibabel warns.

    Raises:
        InputError: they are longer than any that programs write.
        ValueError: they are damaged.
    """
    if not issubclass(kind, nib.Nifti1Pair):
        return False
    files = kind.filespec_to_file_map(os.fspath(path))
    for each in files.values():  # of an image in two files, the other too
        check_file(name, each.filename)
    with opened(files["header" if "header" in files else "image"].filename) as file:
        raw = file.read(kind.header_class.template_dtype.itemsize)
        header = kind.header_class(raw, check=False)
        if file.read(4)[:1] in (b"", b"\0"):
            return False
        left = float(header["vox_offset"]) - len(raw) - 4 if header.is_single else np.inf
        total, odd = 0, False
        while left - total >= 16 and len(begin := file.read(8)) == 8:
            size = int(np.frombuffer(begin, np.dtype(np.int32).newbyteorder(header.endianness))[0])
            if size < 8:
                raise ValueError(f"an extension of {size} bytes")
            if (total := total + size) > _LONGEST:
                raise InputError(f"{name}: expected extensions of its header of up to {_LONGEST} bytes, got {total}")
            odd |= size % 16 != 0
            file.seek(size - 8, os.SEEK_CUR)
    return odd


def _lenient(kind: Any, said: list[str]) -> Any:
    """A class of images like one of nibabel's, which itself stays as it is: other threads may read by it meanwhile.

    Quaternions longer than 1, by rounding or a program's fault, are as if they were of length 1; nibabel raises. What
    is found invalid in a header, as sizes of 0 or less, and mended, is added to a list; nibabel logs it.
    """
    log = logging.Logger("header", logging.WARNING)
    log.handle = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]

    def check_fix(header: Any, logger: Any = None, error_level: int | None = None) -> None:
        kind.header_class.check_fix(header, log, error_level)

    mended = {"quaternion_threshold": -np.inf, "check_fix": check_fix}
    header = type(kind.header_class.__name__, (kind.header_class,), mended)
    return type(kind.__name__, (kind,), {"header_class": header, "ImageArrayProxy": _Stored})


class _Stored(ArrayProxy):
    """The voxels of a file, read as `opened` reads it."""

    @contextmanager
    def _get_fileobj(self) -> Iterator[IO[bytes]]:
        with opened(self.file_like) as file:
            yield file


def reading_nifti(name: str, path: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """See `reading`; for other formats than NIfTI nibabel raises whatever their headers lead to."""
    file = str(path).lower()
    if file.endswith(NIFTI):
        return reading(name, "a NIfTI image", zlib.error, _UNPACKING, ImageFileError, HeaderDataError)
    return reading(name, "an MGH image" if file.endswith(MGH) else "an image", Exception)


def write(path: str | os.PathLike[str], data: Tensor, affine: np.ndarray) -> None:
    """Write values as they are, in millimetres, both forms carrying the affine with code 1.

    Raises:
        InputError: another suffix than .nii and .nii.gz.
        OSError: the file cannot be written.
    """
    array = data.detach().cpu().numpy()
    write_volumes(path, [array], array.shape, array.dtype, affine)


def check_suffix(path: Path) -> None:
    """Of an image to write.

    Raises:
        InputError: it is neither .nii nor .nii.gz.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: expected a name that ends with .nii or .nii.gz")


def write_volumes(
    path: str | os.PathLike[str],
    volumes: Iterable[np.ndarray],
    shape: Sequence[int],
    dtype: np.dtype,
    affine: np.ndarray,
    *,
    scale: tuple[float, float] | None = None,
    steps: Sequence[float] = (),
    unit: str = "unknown",
    more: Mapping[str, float | bytes] = MappingProxyType({}),
) -> None:
    """Write parts of an image as they come, as `write` writes the whole.

    Args:
        path: .nii or .nii.gz.
        volumes: one after the other along the last axis, or axes.
        shape: of the whole.
        dtype: of the voxels.
        affine: (4, 4).
        scale: slope and intercept of the stored values.
        steps: along the axes behind the third.
        unit: of the first of these, as nibabel calls it.
        more: fields of the header.

    Raises:
        InputError: another suffix than .nii and .nii.gz.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    header: Any = nib.Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm", unit)
    header["pixdim"][4 : 4 + len(steps)] = steps
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    try:
        header.set_qform(affine, code=1, strip_shears=False)
    except HeaderDataError:  # sheared
        header["qform_code"] = 0
    header.set_slope_inter(*(scale or (1, 0)))
    for name, value in more.items():
        header[name] = value
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with path.open("wb") as file:
        deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
        packed, rest = (deflate.compress, deflate.flush) if path.suffix == ".gz" else (memoryview, bytes)
        file.write(packed(header.binaryblock + bytes(4)))
        for volume in volumes:
            contents = in_order(np.asarray(volume, dtype).T).reshape(-1).view(np.uint8).data
            for start in range(0, len(contents), _BLOCK):
                file.write(packed(contents[start : start + _BLOCK]))
        file.write(rest())
