"""What all readers share: values that are read when they are asked for, and what is said of a file that is none."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from threading import Lock
from typing import IO, Any, cast

import numpy as np
import torch
from isal import igzip
from nibabel.openers import ImageOpener

from .._memory import available
from ..errors import InputError

GZIP, ZIP = b"\x1f\x8b", b"PK"  # what their files begin with
# Why a file cannot be opened, whatever is in it.
_CLOSED = {
    getattr(errno, each) for each in ("EACCES", "EPERM", "ENAMETOOLONG", "ELOOP", "ENOTDIR", "EMFILE", "ENFILE", "EIO")
}
_SMALL = 2**26  # bytes that there always are
_STANDARD_ERROR = Lock()  # one thread at a time puts it aside


def deferred(shape: tuple[int, ...], dtype: np.dtype | None, read: Callable[[np.dtype | None], np.ndarray]) -> Any:
    """The voxels of a file, for `nibabel.spatialimages.SpatialImage`: read when NumPy makes an array of them.

    Args:
        shape: axes i, j, k in the order of the file.
        dtype: as they are stored; None where reading them tells.
        read: gives them in that dtype, or as they are stored for None.
    """
    return _Deferred(shape, dtype, read)


@dataclass(frozen=True, eq=False)
class _Deferred:
    shape: tuple[int, ...]
    known: np.dtype | None
    read: Callable[[np.dtype | None], np.ndarray]

    @cached_property
    def dtype(self) -> np.dtype:
        return self.read(None).dtype if self.known is None else self.known

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read(None if dtype is None else np.dtype(dtype))


@contextmanager
def reading(name: str, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """What can happen to a file in here is said in one sentence.

    Args:
        name: of the argument, with the path.
        kind: what the file is expected to be, as "a NIfTI image".
        errors: by which a library says that it is not, beside Python's own.

    Raises:
        InputError: any of these.
    """
    known: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, OverflowError, *errors)
    try:
        with np.errstate(all="ignore"):  # what is not finite is found where it counts
            yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: expected {kind}, but there is no such file") from None
    except known as error:
        if isinstance(error, OSError) and error.errno is not None and error.errno in _CLOSED:
            raise InputError(f"{name}: expected {kind}, but it cannot be read ({os.strerror(error.errno)})") from error
        raise InputError(f"{name}: expected {kind}, but the file is empty, damaged or of another kind") from error


def check_file(name: str, path: str | os.PathLike[str]) -> None:
    """That what is read ends: a pipe may wait for ever, and a device go on without end.

    Args:
        name: of the argument, with the path.
        path: of a file, or a folder; where there is none, who reads it says so.

    Raises:
        InputError: it is neither.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{name}: expected a file, got a pipe, a socket or a device")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to read, unpacked as its suffix says, by gzip in half of the time that Python's own takes."""
    packed = str(path).lower().endswith((".gz", ".mgz"))
    unpacked = igzip.IGzipFile(path) if packed else ImageOpener(os.fspath(path))
    with unpacked as file:
        yield cast("IO[bytes]", file)


def in_order(array: np.ndarray) -> np.ndarray:
    """The array, or a copy of it, with its last axis fastest. PyTorch turns plain numbers several times quicker."""
    if array.flags.c_contiguous:
        return array
    plain = array.dtype.kind in "iuf" and array.dtype.isnative and array.flags.writeable and min(array.strides) > 0
    return torch.from_numpy(array).contiguous().numpy() if plain else np.ascontiguousarray(array)


def room(path: str | os.PathLike[str]) -> float:
    """The most bytes that there can be in a file.

    gzip and zip make nothing smaller than by 1032; of bzip2 and zstd there is no saying.
    """
    with open(path, "rb") as file:
        begin = file.read(4)
    if begin.startswith((b"BZh", b"\x28\xb5\x2f\xfd")):
        return np.inf
    return os.path.getsize(path) * (1032 if begin.startswith((GZIP, ZIP)) else 1)


def check_memory(name: str, size: float) -> None:
    """Before memory is taken for what a file says that it holds, and may hold.

    Args:
        name: of the argument, with the path.
        size: bytes that are taken at least.

    Raises:
        InputError: there are fewer for this process.
    """
    if size > _SMALL and size > (free := available()):
        raise InputError(
            f"{name}: expected what fits into the memory that is free, {free:.3g} bytes, got {size:.3g} bytes"
        )


def library(name: str, package: str, kind: str) -> Any:
    """One that l2rfast does not require.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"{name}: {kind} needs {package}, which is not here: pip install {package}") from None


@contextmanager
def silent() -> Iterator[None]:
    """Keeps ITK and libtiff off the standard error, to which they write past Python what they raise as well."""
    with _STANDARD_ERROR:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # closed: nothing to write to
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
