"""The resolutions of an image in OME-Zarr, of which only what is asked for is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from ..._json import parsed
from ...errors import InputError, notice
from ...world import Grid
from ..reading import check_memory, deferred, library, reading
from ..volume import Volume
from .axes import MILLIMETRES, Axes, layout, remarked

KIND = "an OME-Zarr image"
_SUFFIX = ".zarr"
# What packs numbers as numbers, and nothing else.
_CODECS = {  # what packs numbers as numbers, and does nothing else
    *("bytes", "transpose", "sharding_indexed", "crc32c", "gzip", "zstd", "blosc", "zlib", "lz4", "bz2", "lzma"),
    *("shuffle", "delta", "fixedscaleoffset", "bitround", "quantize", "packbits", "crc32", "adler32", "fletcher32"),
}
_CHUNKS = 2**17  # of 64 voxels a side: 3000 along each axis
_VERSIONS = ("0.4", "0.5", "0.6")


@dataclass(frozen=True, eq=False)
class Level:
    """One resolution of an image, whose voxels are not read yet.

    Attributes:
        name: of the argument, with the path, for messages.
        array: of Zarr.
        spatial, components, units, grid: see `l2rfast.io.zarr.axes.Layout`.
    """

    name: str
    array: Any
    spatial: tuple[int, ...]
    components: int | None
    units: tuple[str, ...]
    grid: Grid

    @property
    def dtype(self) -> np.dtype:
        """Of a stored voxel."""
        dtype: np.dtype = self.array.dtype
        return dtype

    def block(self, at: Sequence[slice]) -> Tensor:
        """Some of the voxels, in their own dtype.

        Args:
            at: from where to where along each axis of the grid.

        Returns:
            (D, H, W), or (3, D, H, W) of a field, its components as they are stored.

        Raises:
            InputError: a chunk is damaged.
        """
        index: list[Any] = [0] * self.array.ndim
        for axis, part in zip(self.spatial, at, strict=True):
            index[axis] = part
        if self.components is not None:
            index[self.components] = slice(None)
        sizes = [part.stop - part.start for part in at] + [1 if self.components is None else len(at)]
        check_memory(self.name, math.prod(sizes) * self.dtype.itemsize)
        with reading(self.name, KIND, Exception):
            values = np.asarray(self.array[tuple(index)])
        if self.components is not None:
            values = np.moveaxis(values, sum(axis < self.components for axis in self.spatial), 0)
        return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))

    def volume(self, at: Sequence[slice]) -> Volume:
        """Some of the voxels of an image as float32, and where they lie.

        Raises:
            InputError: as `block`, or NaN or infinite values.
        """
        values = self.block(at).float()
        if wrong := values.numel() - int(values.isfinite().sum()):
            raise InputError(
                f"{self.name}: expected finite values, but {wrong} of {values.numel()} that were read are NaN or "
                f"infinite in float32"
            )
        return Volume(values, self.grid.part(at).affine)

    @property
    def scales(self) -> list[float]:
        """Of each axis of the grid, the length of a voxel in its unit."""
        return [length / MILLIMETRES[unit] for length, unit in zip(self.grid.spacing, self.units, strict=True)]


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of an OME-Zarr, by its name."""
    return os.fspath(path).rstrip("/").lower().endswith(_SUFFIX)


def open_levels(name: str, path: str | os.PathLike[str]) -> list[Level]:
    """The resolutions of an image or of a displacement field, the finest first.

    Args:
        name: of the argument, with the path, for messages.
        path: of the folder.

    Raises:
        InputError: it is none, or of a version that is not known; its axes are not z, y and x, beside others of length
            1; it holds other numbers than real ones, or its finest resolution is not the first; its transformations are
            not scales and translations; or the package zarr is missing.
    """
    zarr = library(name, "zarr", KIND)
    with reading(name, KIND, Exception):
        os.stat(path)
        try:
            group = zarr.open_group(os.fspath(path), mode="r")
        except FileNotFoundError as error:  # the folder is there, and holds no Zarr
            raise ValueError from error
        attributes = group.attrs.asdict()
        told = attributes.get("ome", attributes)
        image, *others = told["multiscales"]
        version = str(told.get("version", image.get("version")))
    if not version.startswith(_VERSIONS):
        raise InputError(f"{name}: expected OME-Zarr of version {', '.join(_VERSIONS)}, got {version}")
    if others:
        notice(f"{name}: of its {1 + len(others)} images the first is used")
    with reading(name, KIND, Exception):
        axes, more = _axes(image)
        remarked(name, axes)
        levels = []
        for each in image["datasets"]:
            array, steps = _array(name, group, os.fspath(path), each["path"]), each["coordinateTransformations"]
            if array.dtype.kind not in "biuf":
                raise InputError(f"{name}: expected an integer or floating dtype of up to 64 bits, got {array.dtype}")
            levels.append(Level(name, array, *layout(name, array.shape, axes, [*steps, *more])))
    if not levels:
        raise InputError(f"{name}: expected {KIND}, but it has no resolution")
    for finer, coarser in pairwise(level.grid.spacing for level in levels):
        if np.prod(coarser) < 0.999 * np.prod(finer):  # which OME-Zarr does not allow
            raise InputError(
                f"{name}: expected the finest resolution first, got voxels of {finer} and then of {coarser} mm"
            )
    return levels


def whether_whole(level: Level) -> None:
    """Say of a resolution which chunks are not there: zeros that its writer left out, or what it did not come to.

    Each is looked for by its name, so that nothing is said of more than `_CHUNKS`.
    """
    if level.array.nchunks > _CHUNKS:
        return
    with reading(level.name, KIND, Exception):
        missing = level.array.nchunks - level.array.nchunks_initialized
    if missing:
        notice(
            f"{level.name}: {missing} of its {level.array.nchunks} chunks are not there, and are read as "
            f"{level.array.fill_value:g}: was it written to the end?"
        )


def open_zarr(name: str, path: Path) -> SpatialImage:
    """The finest resolution of an image, whose voxels are not read yet.

    Raises:
        InputError: as `open_levels`, or it is a displacement field.
    """
    level = open_levels(name, path)[0]
    if level.components is not None:
        raise InputError(f"{name}: expected an image, got a displacement field")
    whether_whole(level)

    def read(dtype: np.dtype | None) -> np.ndarray:
        values: np.ndarray = level.block(whole(level.grid.shape)).numpy()
        return values if dtype is None else values.astype(dtype, copy=False)

    return SpatialImage(deferred(level.grid.shape, level.dtype, read), level.grid.affine)


def whole(shape: Sequence[int]) -> list[slice]:
    """All of a grid."""
    return [slice(0, n) for n in shape]


def _array(name: str, group: Any, folder: str, path: str) -> Any:
    """An array of a group, whose chunks are unpacked by codecs that make numbers of them and do nothing else: others
    unpickle what they find (``pickle`` of numcodecs). What each of them holds fits into memory.

    Raises:
        InputError: it is another, or leads out of the folder.
    """
    if os.path.isabs(path) or ".." in path.split("/"):
        raise InputError(f"{name}: expected resolutions in its folder, got {path!r}")
    told: dict[str, Any] = {}
    for file in ("zarr.json", ".zarray"):
        with suppress(FileNotFoundError):
            told |= parsed((Path(folder, path) / file).read_text(encoding="utf-8"))
    for codec in _codecs([told.get(key) for key in ("codecs", "filters", "compressor")]):
        if codec.removeprefix("numcodecs.") not in _CODECS:
            raise InputError(f"{name}: expected chunks packed by one of {', '.join(sorted(_CODECS))}, got {codec!r}")
    array = group[path]
    if not all(array.chunks):
        raise InputError(f"{name}: expected chunks of at least one voxel, got {array.chunks}")
    check_memory(name, math.prod(array.chunks) * array.dtype.itemsize)
    return array


def _codecs(told: Any) -> Iterator[str]:
    """The names of all, those within others as well."""
    if isinstance(told, Mapping):
        yield from (str(told[key]) for key in ("name", "id") if key in told)
        configuration = told.get("configuration")
        if isinstance(configuration, Mapping):  # of shards
            yield from _codecs([configuration.get("codecs"), configuration.get("index_codecs")])
    elif isinstance(told, list):
        for each in told:
            yield from _codecs(each)


def _axes(image: Mapping[str, Any]) -> tuple[Axes, Axes]:
    """The axes, and the transformations that follow those of every resolution."""
    if "axes" in image:
        return image["axes"], image.get("coordinateTransformations", ())
    output = image["datasets"][0]["coordinateTransformations"][0]["output"]
    wanted = output["name"] if isinstance(output, Mapping) else output
    (axes,) = (system["axes"] for system in image["coordinateSystems"] if system["name"] == wanted)
    return axes, ()  # of 0.6 those lead on, to other systems
