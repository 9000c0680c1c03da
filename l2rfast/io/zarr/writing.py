"""Images and displacement fields in OME-Zarr, written chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...output import folder_whole
from ...world import Grid
from ..reading import library
from .axes import DISPLACEMENT, MILLIMETRES, Axes, described, placing
from .levels import KIND, is_zarr

CHUNK = 64  # voxels along each axis of what is read and written together


@contextmanager
def written(
    path: str | os.PathLike[str], grids: Sequence[Grid], dtype: np.dtype, units: Sequence[str] = ()
) -> Iterator[list[Any]]:
    """Arrays to write the resolutions of an image to, which take the place of the folder as a whole or not at all.

    Args:
        path: of the folder, which ends with .zarr.
        grids: of the resolutions, the finest first.
        dtype: of the voxels.
        units: of length, of each axis; millimetres if none are given.

    Yields:
        For each an array (D, H, W) of Zarr, 0 where nothing is written, whose chunks are of `CHUNK` voxels along each
        axis: two that write at once may share none.

    Raises:
        InputError: another name, what is there is no Zarr, a grid whose axes are not those of OME-Zarr, or zarr is
            missing.
    """
    with _group(path) as group:
        axes = described(f"{path}", grids[0], units)
        datasets = [{"path": str(k), "coordinateTransformations": placing(grid, axes)} for k, grid in enumerate(grids)]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
        yield [_array(group, str(k), grid.shape, dtype, axes) for k, grid in enumerate(grids)]


@contextmanager
def written_field(path: str | os.PathLike[str], grid: Grid, units: Sequence[str] = ()) -> Iterator[FieldWriter]:
    """A displacement field to write, as `written`.

    Raises:
        InputError: as `written`.
    """
    with _group(path) as group:
        axes = [{"name": "c", "type": DISPLACEMENT, "discrete": True}, *described(f"{path}", grid, units)]
        between = {"input": {"path": "0"}, "output": {"name": "physical"}}
        placed = {"type": "sequence", "transformations": placing(grid, axes), **between}
        image = {
            "coordinateSystems": [{"name": "physical", "axes": axes}],
            "datasets": [{"path": "0", "coordinateTransformations": [placed]}],
        }
        group.attrs["ome"] = {"version": "0.6", "multiscales": [image]}
        array = _array(group, "0", (3, *grid.shape), np.dtype(np.float32), axes)
        lengths = [MILLIMETRES[axis["unit"]] for axis in axes[1:]]
        yield FieldWriter(array, [mm / length for mm, length in zip(grid.spacing, lengths, strict=True)])


@dataclass(frozen=True, eq=False)
class FieldWriter:
    """Attributes:
    array: (3, D, H, W), of Zarr.
    scales: of each axis, the length of a voxel in its unit.
    """

    array: Any
    scales: Sequence[float]

    def write(self, at: Sequence[slice], disp: Tensor) -> None:
        """Some of it, (1, 3, D, H, W) in voxels of the grid."""
        scales = torch.tensor(self.scales, dtype=torch.float32).view(3, 1, 1, 1)
        self.array[(slice(None), *at)] = (disp[0].float() * scales).numpy()


@contextmanager
def _group(path: str | os.PathLike[str]) -> Iterator[Any]:
    zarr = library(f"{path}", "zarr", KIND)
    if not is_zarr(path):
        raise InputError(f"{path}: expected a name that ends with .zarr")
    with folder_whole(path, like=("zarr.json", ".zgroup")) as part:
        yield zarr.create_group(os.fspath(part), zarr_format=3)


def _array(group: Any, name: str, shape: Sequence[int], dtype: np.dtype, axes: Axes) -> Any:
    chunks = tuple(min(CHUNK, n) for n in shape)
    called = [axis["name"] for axis in axes]
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=chunks,
        dimension_names=called,
        fill_value=0,
        config={"write_empty_chunks": True},  # so that a chunk that is not there is one that was lost
    )
