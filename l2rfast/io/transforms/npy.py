"""NumPy's arrays in files, alone (.npy) or several (.npz): never objects, no memory before their shape is known."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ..reading import check_memory, room
from .format import head, named

SUFFIXES, SEVERAL = (".npy",), (".npz",)

_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, OverflowError,
    NotImplementedError, RuntimeError,  # ways to pack and encrypt that are not known
    SyntaxError, TokenError,  # of NumPy's headers, which are Python's
)  # fmt: skip
_LENGTHS = {(1, 0): 2, (2, 0): 4}  # bytes that tell how long a header is
_LONGEST = 10_000  # bytes of a header, as NumPy has it
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of every array of real numbers, by its name; that of a file of one is "".

    Raises:
        ValueError: the file is damaged.
    """
    found = {}
    with _opened(path) as files:
        for name in files.namelist() if isinstance(files, zipfile.ZipFile) else [""]:
            with _member(files, name) as file:
                try:
                    shape, _, _ = _header(file)
                except _Other:
                    continue
                found[name.removesuffix(".npy")] = shape
    return found


def load(path: Path, name: str) -> np.ndarray:
    """One array that `shapes` found.

    Raises:
        ValueError: the file ends before it.
    """
    with _opened(path) as files, _member(files, name and f"{name}.npy") as file:
        shape, fortran, dtype = _header(file)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size > room(path):  # before memory is taken for it
            raise ValueError(f"{size} bytes of an array of shape {shape}, for which the file is too short")
        check_memory(str(path), size)
        stored = file.read(size)
        if len(stored) != size:
            raise ValueError(f"{len(stored)} bytes of the {size} of an array of shape {shape}")
        array = np.frombuffer(stored, dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(np.result_type(dtype.newbyteorder("="), np.float32))


def holds_matrix(path: Path) -> bool:
    """Whether it is one (4, 4) matrix."""
    try:
        return named(path, SUFFIXES) and shapes(path) == {"": (4, 4)}
    except ValueError:
        return False


class _Other(ValueError):
    """An array of something else than real numbers, or no array."""


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile | IO[bytes]]:
    """What a file that is damaged leads to is a ValueError."""
    try:
        with zipfile.ZipFile(path) if named(path, SEVERAL) else path.open("rb") as file:
            yield file
    except _DAMAGED as error:
        raise ValueError(f"a damaged file: {error}") from error


@contextmanager
def _member(files: zipfile.ZipFile | IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if isinstance(files, zipfile.ZipFile):
        if files.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} that is packed in another way than NumPy's")
        with files.open(name) as file:
            yield file
    else:
        yield files


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    if (magic := file.read(8))[:6] != npy.MAGIC_PREFIX or (version := (*magic[6:],)) not in _HEADERS:
        raise _Other("no array of NumPy's")
    size = file.read(_LENGTHS[version])
    length = int.from_bytes(size, "little")
    if length > _LONGEST:
        raise ValueError(f"a header of {length} bytes")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*created on Python 2")  # which is read as well
        shape, fortran, dtype = _HEADERS[version](BytesIO(size + file.read(length)))
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or min(shape, default=1) < 1:
        raise _Other(f"an array of {dtype} and shape {shape}")
    return shape, fortran, dtype


def begins(path: Path) -> bool:
    """Whether a file begins as its name says."""
    return (named(path, SUFFIXES) and head(path, 6) == npy.MAGIC_PREFIX) or (
        named(path, SEVERAL) and head(path, 4) == b"PK\x03\x04"
    )


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as `numpy.save` does, which does not say why it cannot.

    Raises:
        OSError: it cannot be written, with the reason.
    """
    values = np.ascontiguousarray(array)
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(values))
        file.write(values.data)
