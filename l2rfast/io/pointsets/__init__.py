"""Points in files: one module for each format, and here the way to them.

A file is written back with other places and everything else in it as it was: names, cells, scalars, metadata, header.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...output import written_whole
from ...world import Grid
from ..grids import read_grid
from ..headers import checked
from ..reading import check_file
from . import fcsv, gifti, markups, table, tck, trk, vtk, vtp
from .stored import SYSTEMS, Stored

__all__ = ["COORDINATES", "PointSet", "read_pointset"]

VOXELS = "voxels"
COORDINATES = (VOXELS, *SYSTEMS)
FORMATS = tuple(each.FORMAT for each in (table, fcsv, markups, gifti, vtk, vtp, trk, tck))


@dataclass(frozen=True, eq=False)
class PointSet:
    """The points of a file.

    Attributes:
        points: (M, 3) float64, in RAS millimetres; of a table of two columns the third is that of the slice.
        stored: the file.
        frame: (4, 4) from its numbers to RAS millimetres.
        suffixes: of files of its format.
        voxels: whether its numbers are voxels of an image.
    """

    points: Tensor
    stored: Stored
    frame: np.ndarray
    suffixes: tuple[str, ...]
    voxels: bool = False

    @property
    def names(self) -> list[str]:
        """Of each point, empty where it has none."""
        return self.stored.names

    def replaced(self, points: Tensor, grid: Any = None) -> PointSet:
        """The same with other points (M, 3), in RAS millimetres.

        Args:
            points: as many as there are, finite.
            grid: of points in voxels, the image in whose voxels they are now: what `read_grid` takes.

        Raises:
            InputError: others than these, or voxels without their image.
        """
        if points.shape != self.points.shape:
            raise InputError(f"points: expected ones of shape {tuple(self.points.shape)}, got {tuple(points.shape)}")
        if lost := int((~points.isfinite().all(1)).sum()):
            raise InputError(f"points: expected places that are finite, but {lost} of {len(points)} lead nowhere")
        frame = _grid("the points go to", grid).affine if self.voxels else self.frame
        return replace(self, points=points, frame=frame)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file, as a whole or not at all.

        Args:
            path: with a suffix of its format; it may be the file that was read.

        Raises:
            InputError: another suffix, or a place that cannot be written.
        """
        file = Path(path)
        if not file.name.lower().endswith(self.suffixes):
            raise InputError(f"{path}: expected a name that ends with {' or '.join(self.suffixes)}")
        matrix = np.linalg.inv(self.frame)
        values = self.points.numpy() @ matrix[:3, :3].T + matrix[:3, 3]
        with written_whole(file) as part:
            self.stored.write(part, values[:, : self.stored.values.shape[1]])


def read_pointset(
    path: str | os.PathLike[str], *, coordinates: str | None = None, grid: Any = None, name: str = "points"
) -> PointSet:
    """Read points of any format, by what the name of their file ends with.

    Args:
        path: of the file: a table (.csv), 3D Slicer's .fcsv and .mrk.json, GIFTI (.gii), VTK (.vtk, .vtp), streamlines
            (.trk, .tck).
        coordinates: what the numbers of a file are that does not say so: ``"voxels"``, or ``"ras"`` or ``"lps"``
            millimetres.
        grid: of voxels, their image: what `read_grid` takes.
        name: of the argument, for messages.

    Raises:
        InputError: the file cannot be read, has no points or some that are not finite, does not say in which
            coordinates they are, or says others than those given.
    """
    file, name = Path(path), f"{name} ({path})"
    if coordinates is not None and coordinates not in COORDINATES:
        raise InputError(f"--coordinates: expected one of {', '.join(COORDINATES)}, got {coordinates!r}")
    format = next((each for each in FORMATS if file.name.lower().endswith(each.suffixes)), None)
    if format is None:
        endings = ", ".join(suffix for each in FORMATS for suffix in each.suffixes)
        raise InputError(f"{name}: expected a file of points, whose name ends with one of {endings}")
    check_file(name, file)
    try:
        with np.errstate(all="ignore"):  # what is not finite is found below
            stored = format.read(file, coordinates)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (OSError, EOFError, ValueError, OverflowError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{name}: expected {format.text}, got {reason}") from error
    count, ndim = stored.values.shape
    if not count:
        raise InputError(f"{name}: expected points, got none")
    if ndim not in (2, 3):
        raise InputError(f"{name}: expected points of 2 or 3 axes, got {ndim}")
    off = ~np.isfinite(stored.values).all(1)
    if off.any():
        raise InputError(f"{name}: expected finite points, got {stored.values[off][0].tolist()} as the {_nth(off)}")
    frame = _frame(name, stored, coordinates, grid)
    lifted = np.zeros((count, 3))
    lifted[:, :ndim] = stored.values
    with np.errstate(all="ignore"):
        lifted = lifted @ frame[:3, :3].T + frame[:3, 3]
    if not np.isfinite(lifted).all():
        raise InputError(f"{name}: expected points of the world, got some that are farther than numbers go")
    points = torch.from_numpy(lifted)
    return PointSet(points, stored, frame, format.suffixes, coordinates == VOXELS)


def _frame(name: str, stored: Stored, coordinates: str | None, grid: Any) -> np.ndarray:
    if coordinates is None:
        if stored.frame is None:
            raise InputError(
                f"{name}: expected --coordinates {', '.join(COORDINATES)}: the file does not say in which it is"
            )
        return checked(name, stored.frame)
    if stored.frame is not None and (coordinates == VOXELS or not np.array_equal(stored.frame, SYSTEMS[coordinates])):
        raise InputError(f"{name}: expected no --coordinates {coordinates}: the file says itself that it is in others")
    return _grid("the points are on", grid).affine if coordinates == VOXELS else SYSTEMS[coordinates]


def _grid(which: str, grid: Any) -> Grid:
    if grid is None:
        raise InputError(f"--coordinates voxels: expected the image that {which}, --fixed and --moving")
    return read_grid("image", grid)


def _nth(chosen: np.ndarray) -> str:
    return f"{int(chosen.argmax()) + 1}. of {len(chosen)}"
