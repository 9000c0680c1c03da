"""Landmarks: points of an image in a table."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, notice
from .pointsets import table
from .reading import check_file
from .volume import Volume


def read_landmarks(path: str | os.PathLike[str], like: Volume) -> Tensor:
    """Read landmarks as Learn2Reg has them: a line of comma-separated voxel coordinates each.

    They are read as by `numpy.loadtxt` in Learn2Reg's evaluation: spaces, empty lines, quotation marks and comments
    after ``#`` are fine. A line of column names is refused: files that have one (as for ANTs) hold millimetres. Points
    outside the image are said by `notice`.

    Args:
        path: of the CSV file, UTF-8 with or without a byte order mark.
        like: the image in whose voxels they are.

    Returns:
        (M, ndim) float64.

    Raises:
        InputError: the file cannot be read, or does not hold finite coordinates, one for each axis.
    """
    ndim = like.data.ndim
    expected = f"{path}: expected lines of {ndim} comma-separated voxel coordinates"
    check_file(f"{path}", path)
    try:
        read = table.parsed(table.read_text(Path(path)))
        if any(read.columns):
            raise ValueError(f"a line of columns, {', '.join(read.columns)}")
        points = table.numbers(read.points())
    except (OSError, ValueError) as error:
        raise InputError(f"{expected} ({error})") from error
    if not points.size or points.shape[1] != ndim or not np.isfinite(points).all():
        found = f"{points.shape[0]} lines of {points.shape[1]}" if np.isfinite(points).all() else "NaN or infinity"
        raise InputError(f"{expected}, got {found}")
    if len(points) > 1 and points[0].tolist() == list(range(ndim)):
        notice(f"{path}: its first landmark is {points[0].tolist()}: where pandas wrote that line, it names columns")
    outside = ((points < -0.5) | (points > np.array(like.data.shape) - 0.5)).any(1)
    if outside.any():
        notice(
            f"{path}: {outside.sum()} of {len(points)} landmarks lie outside their image of "
            f"{' x '.join(map(str, like.data.shape))} voxels; voxel coordinates are expected, not millimetres"
        )
    return torch.from_numpy(points)
