"""Images of any kind of numbers, volume by volume: series, complex numbers, colours, vectors."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import unit_codes
from nibabel.spatialimages import SpatialImage

from ..errors import InputError
from ..world import Grid
from .formats import open_image
from .headers import affine_of
from .nifti import reading_nifti, write_volumes
from .reading import check_memory, in_order, opened, room

_PLAIN = "biuf"  # kinds of dtypes that have one real number
_COLOURS = "RGBA"
_KEPT = ("intent_code", "intent_p1", "intent_p2", "intent_p3")  # of a header


class Scale(NamedTuple):
    """What a stored value is multiplied by, and what is added then."""

    slope: float
    inter: float


@dataclass(frozen=True, eq=False)
class Series:
    """An image whose volumes are read one after the other.

    Attributes:
        name: of the argument, with the path.
        image: as it was opened.
        grid: of one volume, of three axes.
        rest: the axes behind the spatial ones, empty where there are none.
        dtype: of a stored voxel.
        scale: None where values are as they are stored.
    """

    name: str
    image: SpatialImage
    grid: Grid
    rest: tuple[int, ...]
    dtype: np.dtype
    scale: Scale | None

    def __len__(self) -> int:
        return math.prod(self.rest)

    @property
    def intent(self) -> int:
        """NIfTI's code; 0 of other formats."""
        header: Any = self.image.header
        return int(header["intent_code"]) if isinstance(self.image, nib.Nifti1Pair) else 0

    def volumes(self, *, scaled: bool = True) -> Iterator[np.ndarray]:
        """Each (C, D, H, W), C being 2 of complex numbers and 3 or 4 of colours; as stored, or float64 if scaled.

        Args:
            scaled: whether to scale, where the file says by what.

        Raises:
            InputError: the file is damaged.
        """
        for stored in self._stored():
            if self.dtype.kind == "c":
                parts = stored[None].view(stored.real.dtype).reshape(*stored.shape, 2)
                yield np.ascontiguousarray(np.moveaxis(parts, -1, 0))
            elif self.dtype.names:
                yield np.stack([stored[part] for part in self.dtype.names])
            elif self.scale is None or not scaled:
                yield stored[None]
            else:
                yield stored[None] * self.scale.slope + self.scale.inter

    def joined(self, channels: np.ndarray) -> np.ndarray:
        """What `volumes` took apart: (C, D, H, W) in the dtype of one number -> (D, H, W) in the dtype of a voxel."""
        if self.dtype.kind == "c":
            complex_: np.ndarray = channels[0] + 1j * channels[1]
            return complex_
        if self.dtype.names:
            voxels = np.empty(channels.shape[1:], self.dtype)
            for name, channel in zip(self.dtype.names, channels, strict=True):
                voxels[name] = channel
            return voxels
        plain: np.ndarray = channels[0]
        return plain

    def unscaled(self, values: Any) -> Any:
        """Values, an array or one, as they would be stored, not rounded."""
        return values if self.scale is None else (values - self.scale.inter) / self.scale.slope

    @property
    def number(self) -> np.dtype:
        """The dtype of one number of a voxel, in the machine's byte order."""
        if self.dtype.names:
            return np.dtype(self.dtype[0])
        return np.dtype(f"f{self.dtype.itemsize // 2}") if self.dtype.kind == "c" else self.dtype

    def _stored(self) -> Iterator[np.ndarray]:
        size, proxy = self.grid.size, self.image.dataobj
        with reading_nifti(self.name, self.image.get_filename() or ""):
            if not isinstance(proxy, ArrayProxy):
                yield np.asanyarray(proxy).reshape(size)
                return
            length = math.prod(size) * proxy.dtype.itemsize
            if proxy.offset + length * len(self) > room(proxy.file_like):  # before memory is taken for it
                raise EOFError
            check_memory(self.name, length)
            with opened(proxy.file_like) as file:
                file.seek(proxy.offset)
                for _ in range(len(self)):
                    block = bytearray(length)
                    if file.readinto(block) != length:  # type: ignore[attr-defined]
                        raise EOFError
                    voxels = np.frombuffer(block, proxy.dtype).reshape(size, order="F")
                    yield in_order(voxels.astype(self.dtype, copy=False))


def open_series(name: str, path: str | os.PathLike[str]) -> Series:
    """An image of any integer, floating, complex or colour dtype, of which nothing is read yet but the header.

    Args:
        name: of the argument, for messages.
        path: of any format of docs/reference/input.md. Axes behind the third are volumes.

    Raises:
        InputError: the file is missing, damaged, of another kind, or of numbers that no NIfTI holds.
    """
    name = f"{name} ({path})"
    image = open_image(name, path)
    proxy: Any = image.dataobj
    dtype = np.dtype(proxy.dtype).newbyteorder("=")
    wide = dtype.itemsize > (16 if dtype.kind == "c" else 8)
    if (dtype.kind not in _PLAIN + "c" and not (dtype.names and set(dtype.names) <= set(_COLOURS))) or wide:
        raise InputError(f"{name}: expected real, complex or colour numbers of up to 64 bits, got {dtype}")
    affine, _ = affine_of(name, image, stored=True)
    shape = (*image.shape, 1, 1)[: max(3, len(image.shape))]
    if min(shape) < 1:
        raise InputError(f"{name}: expected an image, got shape {image.shape}")
    slope, inter = (float(getattr(proxy, part, usual)) for part, usual in (("slope", 1.0), ("inter", 0.0)))
    scale = None if (slope, inter) == (1.0, 0.0) or dtype.kind == "c" or dtype.names else Scale(slope, inter)
    return Series(name, image, Grid(shape[:3], affine), tuple(shape[3:]), dtype, scale)


def write_series(path: str | os.PathLike[str], like: Series, grid: Grid, volumes: Iterable[np.ndarray]) -> None:
    """Write volumes as they come: NIfTI, with the dtype, the scale, the intent and the time step of another.

    Args:
        path: .nii or .nii.gz.
        like: the image that they were made of.
        grid: of the volumes.
        volumes: (D, H, W) each, as they are stored, as many as `like` has.

    Raises:
        InputError: another suffix.
        OSError: the file cannot be written.
    """
    more, steps, unit = {}, [], "unknown"
    if isinstance(like.image, nib.Nifti1Pair):
        header: Any = like.image.header
        more = {field: header[field].item() for field in _KEPT}
        steps, unit = header["pixdim"][4:8].tolist(), _unit_of_time(int(header["xyzt_units"]))
    shape = (*grid.size, *like.rest)
    write_volumes(path, volumes, shape, like.dtype, grid.affine, scale=like.scale, steps=steps, unit=unit, more=more)


def _unit_of_time(code: int) -> str:
    """Of the fourth axis, by nibabel's names; nibabel has none for codes that NIfTI does not define."""
    return str(unit_codes.label.get(code & 0o70, "unknown"))
