"""The axes of OME-Zarr, and where the voxels of a grid lie by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError, notice
from ...world import Grid

DISPLACEMENT = "displacement"  # the type of the axis of components
MILLIMETRES = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "meter": 1000.0,
    "inch": 25.4,
}
_WORLD = {"x": (0, -1.0), "y": (1, -1.0), "z": (2, 1.0)}  # by name, the axis of RAS and its direction
_NONE = 1e-6  # of an axis, the share of it that may lie along others

Axes = Sequence[Mapping[str, Any]]


class Layout(NamedTuple):
    """How an array lies.

    Attributes:
        spatial: which of its axes are those of the grid, in order.
        components: that of a displacement field's; None of an image.
        units: of length, of each axis of the grid.
        grid: of its voxels.
    """

    spatial: tuple[int, ...]
    components: int | None
    units: tuple[str, ...]
    grid: Grid


def remarked(name: str, axes: Axes) -> None:
    """Says what of the axes of an image is not used as it may have been meant."""
    if not all(axis.get("unit") for axis in axes if axis.get("type") == "space"):
        notice(f"{name}: an axis without a unit is taken to be in millimetres, as ITK does")
    if turned := sorted(axis["name"] for axis in axes if "orientation" in axis):
        notice(
            f"{name}: the orientation of {', '.join(turned)} is not used: x, y and z are taken for left, posterior and "
            f"superior, as ITK does"
        )


def layout(name: str, shape: Sequence[int], axes: Axes, steps: Axes) -> Layout:
    """Of an array, by the metadata.

    Args:
        name: for messages.
        shape: of the array.
        axes: as they are described.
        steps: transformations, one after the other.

    Raises:
        InputError: other axes than x, y and z in space and, of a length of 1, others; no voxel; or transformations or
            units that are not known.
    """
    called = [axis["name"] for axis in axes]
    spatial = tuple(k for k, axis in enumerate(axes) if axis.get("type") == "space")
    components = [k for k, axis in enumerate(axes) if axis.get("type") == DISPLACEMENT]
    if sorted(called[k] for k in spatial) != sorted(_WORLD):
        raise InputError(f"{name}: expected the axes z, y and x in space, got {', '.join(called)}")
    for k in set(range(len(shape))).difference(spatial):
        expected = len(spatial) if k in components else 1
        if shape[k] != expected:
            raise InputError(f"{name}: expected a length of {expected} along the axis {called[k]}, got {shape[k]}")
    units = tuple(axes[k].get("unit") or "" for k in spatial)
    if unknown := set(units).difference(MILLIMETRES, [""]):
        raise InputError(f"{name}: expected a unit of {', '.join(MILLIMETRES)}, got {min(unknown)}")
    if 0 in shape:
        raise InputError(f"{name}: expected voxels, got an array of shape {tuple(shape)}")
    units = tuple(unit or "millimeter" for unit in units)
    scale, shift = np.ones(len(shape)), np.zeros(len(shape))
    for step in steps:
        scale, shift = _followed(name, step, scale, shift)
    volume = np.prod([scale[k] * MILLIMETRES[unit] for k, unit in zip(spatial, units, strict=True)])
    if not (np.isfinite([scale, shift]).all() and (scale > 0).all() and 0 < volume < np.inf):
        raise InputError(f"{name}: expected scales above 0 and finite translations, got {scale} and {shift}")
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for column, (k, unit) in enumerate(zip(spatial, units, strict=True)):
        row, way = _WORLD[called[k]]
        affine[row, [column, 3]] = way * MILLIMETRES[unit] * np.array([scale[k], shift[k]])
    grid = Grid(tuple(shape[k] for k in spatial), affine)
    return Layout(spatial, components[0] if components else None, units, grid)


def _followed(
    name: str, step: Mapping[str, Any], scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A scale and a translation, and a transformation after them."""
    kind = step["type"]
    if kind == "sequence":
        for each in step["transformations"]:
            scale, shift = _followed(name, each, scale, shift)
    elif kind in ("scale", "translation") and kind in step:
        values = np.array(step[kind], np.float64)
        if values.shape != scale.shape:
            raise InputError(f"{name}: expected a {kind} of {len(scale)} numbers, got {step[kind]}")
        scale, shift = (scale * values, shift * values) if kind == "scale" else (scale, shift + values)
    elif kind != "identity":
        raise InputError(f"{name}: expected scales and translations that stand in its metadata, got {kind}")
    return scale, shift


def described(name: str, grid: Grid, units: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The axes of a grid.

    Args:
        name: for messages.
        units: of length, of each axis; millimetres where none are given.

    Raises:
        InputError: they are not those that OME-Zarr has room for.
    """
    axes = []
    for column, unit in zip(  # of a slice, which is refused, there may be a unit more
        grid.affine[:3, : len(grid.shape)].T, units or ["millimeter"] * len(grid.shape), strict=False
    ):
        row = int(np.abs(column).argmax())
        along = np.abs(np.delete(column, row)).max() < _NONE * abs(column[row])
        axes += [
            {"name": called, "type": "space", "unit": unit}
            for called, (axis, way) in _WORLD.items()
            if along and axis == row and column[row] * way > 0
        ]
    if sorted(axis["name"] for axis in axes) != sorted(_WORLD):
        raise InputError(
            f"{name}: expected a grid of three axes, along left, posterior and superior as OME-Zarr has them, in any "
            f"order, got the affine {grid.affine.tolist()}; NIfTI has room for others"
        )
    return axes


def placing(grid: Grid, axes: Axes) -> list[dict[str, Any]]:
    """The transformations of the voxels of a grid; an axis that is not one of space is left as it is."""
    scale, shift = [], []
    for axis in axes:
        if axis["type"] == "space":
            row, way = _WORLD[axis["name"]]
            unit = way * MILLIMETRES[axis["unit"]]
            scale.append(float(np.abs(grid.affine[row, :3]).max() / abs(unit)))
            shift.append(float(grid.affine[row, 3] / unit))
        else:
            scale.append(1.0)
            shift.append(0.0)
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
