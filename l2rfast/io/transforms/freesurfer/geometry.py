"""Where the voxels of an image lie, as FreeSurfer notes it: voxel sizes, axes, and the place of the centre.

The centre is voxel ``size / 2``, half a voxel beyond the middle.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ....errors import InputError
from ....world import Grid
from ...headers import checked
from ...reading import GZIP, room
from ..format import Grids, head

_VOLUME = [
    ("valid", ">i4"),
    ("size", ">i4", 3),
    ("spacing", ">f4", 3),
    ("axes", ">f4", (3, 3)),
    ("centre", ">f4", 3),
]
_NAME = [("name", "V512")]


class Geometry(NamedTuple):
    """FreeSurfer's notes on a grid.

    Attributes:
        size: (3,) voxels.
        spacing: (3,) millimetres.
        axes: (3, 3), in rows the directions of the axes, in RAS.
        centre: (3,) RAS millimetres.
    """

    size: np.ndarray
    spacing: np.ndarray
    axes: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, grid: Grid) -> Geometry:
        """What is noted of a grid."""
        size, affine = np.array(grid.size), grid.affine
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        return cls(size, spacing, (affine[:3, :3] / spacing).T, affine[:3, :3] @ (size / 2) + affine[:3, 3])

    def grid(self, shear: np.ndarray | None = None) -> Grid:
        """The grid of which it is.

        Args:
            shear: (3,), of the second and third axis along the first, and of the third along the second, in voxels.

        Raises:
            InputError: there is no such grid.
        """
        if not (self.size > 0).all():
            raise InputError(f"expected sizes above 0 of its volumes, got {self.size.tolist()}")
        affine = np.eye(4)
        with np.errstate(invalid="ignore"):  # what is not finite is found below
            affine[:3, :3] = self.axes.T * self.spacing
            if shear is not None:
                affine[:3, :3] @= np.array([[1, shear[0], shear[1]], [0, 1, shear[2]], [0, 0, 1]])
            affine[:3, 3] = self.centre - affine[:3, :3] @ (self.size / 2)
        return Grid(tuple(self.size.tolist()), checked("its volume", affine))


def known(own: Grids, grids: Grids) -> Iterator[Grid]:
    """The grids of fixed and moving: those that a file tells, or else those that are given.

    Raises:
        InputError: neither.
    """
    for name, told in zip(Grids._fields, own, strict=True):
        yield told or grids.need(name, "the file does not tell where the voxels lie")


def surface(grid: Grid) -> np.ndarray:
    """(4, 4): voxel -> place of FreeSurfer's surfaces (tkregister's RAS), which are about the middle of the volume."""
    (x, y, z), (i, j, k) = np.linalg.norm(grid.affine[:3, :3], axis=0), grid.size
    rows = [[-x, 0, 0, x * i / 2], [0, 0, z, -z * k / 2], [0, -y, 0, y * j / 2], [0, 0, 0, 1]]
    return np.array(rows)


class Stream:
    """A file of big-endian numbers, which gives no more than there can be.

    Args:
        file: to read from.
        most: bytes there can be.
    """

    def __init__(self, file: IO[bytes] | gzip.GzipFile, most: float) -> None:
        self._file, self._left = file, most

    def take(self, count: int) -> bytes:
        """So many bytes.

        Raises:
            ValueError: there are fewer.
        """
        self._left -= count
        if count < 0 or self._left < 0:
            raise ValueError("sizes that do not fit into the file")
        found = self._read(count)
        if len(found) < count:
            raise ValueError("a file that ends early")
        return found

    def numbers(self, dtype: str, count: int) -> np.ndarray:
        """So many numbers."""
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype)

    def number(self, dtype: str = ">i4") -> int:
        """One integer."""
        return int(self.numbers(dtype, 1)[0])

    def tag(self) -> int:
        """The next of FreeSurfer's tags, 0 at the end of the file."""
        found = self._read(4)
        return int.from_bytes(found, "big", signed=True) if len(found) == 4 else 0

    def _read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except zlib.error as error:
            raise ValueError("a damaged file") from error

    def grid(self, *, sheared: bool = False) -> Grid | None:
        """A volume's geometry; None where it is noted as not valid."""
        dtype = np.dtype([*_VOLUME, *([("shear", ">f4", 3)] if sheared else []), *_NAME])
        found = np.frombuffer(self.take(dtype.itemsize), dtype)[0]
        if not found["valid"]:
            return None
        numbers = [found[name].astype(np.float64) for name in ("spacing", "axes", "centre")]
        shear = found["shear"].astype(np.float64) if sheared else None
        return Geometry(found["size"].astype(np.int64), *numbers).grid(shear)


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """A file that may be compressed."""
    with gzip.open(path) if head(path, 2) == GZIP else path.open("rb") as file:
        yield Stream(file, room(path))


def begins(path: Path) -> bytes:
    """The first four bytes of a file that may be compressed; none where there are fewer."""
    try:
        with opened(path) as stream:
            return stream.take(4)
    except (OSError, EOFError, ValueError):
        return b""


def noted(grid: Grid) -> bytes:
    """A volume's geometry, valid.

    Raises:
        InputError: the axes of the grid are not at right angles.
    """
    geometry = Geometry.of(grid)
    if not np.allclose(geometry.axes @ geometry.axes.T, np.eye(3), rtol=0, atol=1e-4):
        raise InputError(
            "expected a grid with axes at right angles, as FreeSurfer's volumes have them, got a sheared one"
        )
    found = np.zeros(1, [*_VOLUME, *_NAME])
    found[0] = (1, *geometry, b"")
    return found.tobytes()
