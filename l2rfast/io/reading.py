"""What all readers share: values that are read when they are asked for, and what is said of a file that is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import InputError


def deferred(shape: tuple[int, ...], dtype: np.dtype, read: Callable[[np.dtype | None], np.ndarray]) -> Any:
    """The voxels of a file, for `nibabel.spatialimages.SpatialImage`: read when NumPy makes an array of them.

    Args:
        shape: axes i, j, k in the order of the file.
        dtype: as they are stored.
        read: gives them in that dtype, or as they are stored for None.
    """
    return _Deferred(shape, dtype, read)


@dataclass(frozen=True, eq=False)
class _Deferred:
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[np.dtype | None], np.ndarray]

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
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: expected {kind}, but there is no such file") from None
    except known as error:
        raise InputError(f"{name}: expected {kind}, but the file is empty, damaged or of another kind") from error


def library(name: str, package: str, kind: str) -> Any:
    """One that l2rfast does not require.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"{name}: {kind} needs {package}, which is not here: pip install {package}") from None
