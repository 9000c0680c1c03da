"""Points of an image with their names: 3D Slicer's, tables with columns, and landmarks as `landmarks` has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, notice
from .landmarks import read_landmarks
from .pointsets import fcsv, markups, table
from .pointsets.stored import LPS
from .reading import check_file
from .volume import Volume

_NAMED = (fcsv.FORMAT, markups.FORMAT)


class Points(NamedTuple):
    """Attributes:
    names: of each, empty where it has none.
    voxels: (M, ndim) float64, of the image.
    """

    names: list[str]
    voxels: Tensor


def read_points(name: str, path: str | os.PathLike[str], like: Volume) -> Points:
    """Read points of an image.

    - 3D Slicer's .fcsv and .mrk.json, in the coordinates that they name, RAS where an .fcsv names none. What is not
      placed in a .mrk.json is left out.
    - .csv with columns x, y and z, as ANTs has them: LPS millimetres; with x and y alone, for 2-D images: pixels, x
      along the first axis. A column ``label`` or ``name`` has the names.
    - .csv without names of columns: see `read_landmarks`.

    Args:
        name: of the argument, for messages.
        path: of the file.
        like: the image.

    Raises:
        InputError: the file cannot be read, or does not hold finite points.
    """
    file = Path(path)
    format = next((each for each in _NAMED if file.name.lower().endswith(each.suffixes)), table.FORMAT)
    check_file(f"{name} ({path})", file)
    try:
        if format is table.FORMAT and not any(table.parsed(table.read_text(file)).columns):
            voxels = read_landmarks(path, like)
            return Points([""] * len(voxels), voxels)
        stored = format.read(file, None)
    except InputError:
        raise
    except (OSError, ValueError, OverflowError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{name} ({path}): expected {format.text}, got {reason}") from error
    values, ndim = stored.values, like.data.ndim
    frame = LPS if format is table.FORMAT else stored.frame
    if values.shape[1] == 3 and frame is not None:
        with np.errstate(all="ignore"):  # what is not finite is found below
            world = values @ frame[:3, :3].T + frame[:3, 3]
            values = np.linalg.solve(like.affine, np.vstack([world.T, np.ones(len(world))]))[:ndim].T
    if not len(values):
        raise InputError(f"{name} ({path}): expected points, got none")
    if values.shape[1] != ndim:
        raise InputError(f"{name} ({path}): expected points of {ndim} axes, as their image has, got {values.shape[1]}")
    if lost := int((~np.isfinite(values).all(1)).sum()):
        raise InputError(f"{name} ({path}): expected finite points, but {lost} of {len(values)} are not")
    outside = ((values < -0.5) | (values > np.array(like.data.shape) - 0.5)).any(1)
    if outside.any():
        notice(f"{name} ({path}): {outside.sum()} of {len(values)} points lie outside their image")
    return Points(stored.names, torch.from_numpy(values))


def paired(fixed: Points, moving: Points) -> tuple[list[str], Tensor, Tensor]:
    """The points that both have: by name where all have names of their own, else by row.

    What is left over is said by `notice`.

    Returns:
        Their names, and their voxels in fixed and in moving, (M, ndim) each.

    Raises:
        InputError: no name is in both.
    """
    named = all(all(p.names) and len(set(p.names)) == len(p.names) for p in (fixed, moving))
    if named:
        names = [name for name in fixed.names if name in set(moving.names)]
        if not names:
            raise InputError("--fixed-landmarks, --moving-landmarks: expected a name that both have")
        rows = [[p.names.index(name) for name in names] for p in (fixed, moving)]
    else:
        rows = [list(range(min(len(fixed.names), len(moving.names))))] * 2
        names = [fixed.names[i] or str(i + 1) for i in rows[0]]
    left = max(len(p.names) for p in (fixed, moving)) - len(names)
    if left:
        how = "name" if named else "row"
        notice(f"--fixed-landmarks, --moving-landmarks: {left} points have no partner, which is by {how}")
    return names, fixed.voxels[rows[0]], moving.voxels[rows[1]]
