"""Points of an image with their names: 3D Slicer's, tables with columns, and landmarks as `landmarks` has them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, notice
from .displacements import LPS
from .landmarks import read_landmarks
from .volume import Volume

_SYSTEMS = {"LPS": LPS, "1": LPS, "RAS": np.eye(3), "0": np.eye(3)}  # by number in Slicer before 4.11
_COLUMNS = ("x", "y", "z")

# Names, places, and the axes of the world in which these are, none where they are in voxels.
_Read = tuple[list[str], list[list[float]], np.ndarray | None]


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
    readers: dict[str, Callable[[str], _Read]] = {".fcsv": _fcsv, ".mrk.json": _markups, ".json": _markups}
    reader = next((readers[suffix] for suffix in readers if file.name.lower().endswith(suffix)), _table)
    try:
        text = file.read_text(encoding="utf-8-sig")
        if reader is _table and not _has_columns(text):
            voxels = read_landmarks(path, like)
            return Points([""] * len(voxels), voxels)
        names, places, axes = reader(text)
        values = np.array(places, np.float64).reshape(len(names), -1)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} ({path}): expected a file of points, got {error!r}") from error
    ndim = like.data.ndim
    if axes is not None and values.shape[1] == 3:
        values = np.linalg.solve(like.affine, np.vstack([axes @ values.T, np.ones(len(values))]))[:ndim].T
    if not len(values) or values.shape[1] != ndim or not np.isfinite(values).all():
        raise InputError(f"{name} ({path}): expected finite points of {ndim} axes, got {values.shape[1]}-D ones")
    outside = ((values < -0.5) | (values > np.array(like.data.shape) - 0.5)).any(1)
    if outside.any():
        notice(f"{name} ({path}): {outside.sum()} of {len(values)} points lie outside their image")
    return Points(names, torch.from_numpy(values))


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


def _has_columns(text: str) -> bool:
    return {"x", "y"} <= {cell.strip().lower() for cell in text.partition("\n")[0].split(",")}


def _table(text: str) -> _Read:
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    head = [cell.strip().lower() for cell in next(lines)]
    rows = [dict(zip(head, line, strict=True)) for line in lines if line]
    columns = [column for column in _COLUMNS if column in head]
    places = [[float(row[column]) for column in columns] for row in rows]
    return _names(row.get("label") or row.get("name") or "" for row in rows), places, LPS if "z" in head else None


def _fcsv(text: str) -> _Read:
    lines, columns, system = text.splitlines(), ["id", "x", "y", "z"], "RAS"
    for line in lines:
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = value.strip()
        elif line.startswith("#") and key.strip() == "columns":
            columns = [column.strip() for column in value.split(",")]
    rows = [dict(zip(columns, line, strict=False)) for line in csv.reader(x for x in lines if x and x[0] != "#")]
    places = [[float(row[column]) for column in _COLUMNS] for row in rows]
    return _names(row.get("label", "") for row in rows), places, _SYSTEMS[system]


def _markups(text: str) -> _Read:
    markups: Any = json.loads(text)["markups"][0]
    points = [p for p in markups["controlPoints"] if p.get("positionStatus", "defined") == "defined"]
    system = _SYSTEMS[str(markups.get("coordinateSystem", "LPS"))]
    return _names(p.get("label", "") for p in points), [p["position"] for p in points], system


def _names(names: Iterable[str]) -> list[str]:
    return [name.strip() for name in names]
