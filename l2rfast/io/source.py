"""Values from wherever they come: files, nibabel's images, volumes, tensors and arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from ..errors import InputError, notice
from .formats import open_image
from .headers import affine_of, checked
from .nifti import reading_nifti
from .pictures import Picture
from .reading import check_memory, room
from .volume import Volume

_INSTEAD = {"c": ": take its magnitude", "V": ", colours: take one channel"}  # by NumPy's kind of dtype


@dataclass(frozen=True, eq=False)
class Source:
    """What was found.

    Attributes:
        name: for messages, with the path where there is one.
        data: (*spatial), or (*spatial, L) where that was asked for.
        affine: (4, 4), voxel -> RAS millimetres; where nothing is known of it, the identity, for files as ITK has it.
        placed: whether something is known of it; None for what has no place to say it, as arrays and pictures.
        step: the distance between values that the file can hold, where it scales integers; else 0.
        shared: whether the caller holds these values as well.
        flat: of a slice, which axis had a length of 1, if any.
    """

    name: str
    data: Tensor
    affine: np.ndarray
    placed: bool | None
    step: float
    shared: bool
    flat: int | None


def find(name: str, value: Any, dims: Sequence[int], *, scaled: bool, size: tuple[int, ...] = ()) -> Source:
    """Take values from wherever they are.

    Args:
        name: of the argument.
        value: see `l2rfast.io.as_volume`.
        dims: how many axes it may have. One slice counts as 2-D, whichever of the three axes has a length of 1.
        scaled: as float32, or as it is stored, float64 where the file scales.
        size: of the grid that a stack (*size, L) of volumes may have; without it, trailing axes of length 1 go.

    Raises:
        InputError: none of these, or what cannot be read.
    """
    shared = not isinstance(value, str | os.PathLike | Volume)
    stored = isinstance(value, str | os.PathLike)
    if isinstance(value, str | os.PathLike):
        name = f"{name} ({value})"
        value = open_image(name, value)
    if isinstance(value, SpatialImage):
        affine, placed = affine_of(name, value, stored=stored)
        stored_shape = value.shape
        shape, axes = _layout(name, stored_shape, dims, size)
        data, step = read_values(name, value, scaled=scaled), _step(value)
    else:
        data = value.data if isinstance(value, Volume) else value
        if isinstance(data, np.ndarray):
            if np.ma.is_masked(data):
                notice(f"{name}: the mask of its array is not used")
            data = _tensor(name, data)
        if not isinstance(data, Tensor) or not _is_plain(data):
            tensor = isinstance(data, Tensor)
            kind = f"a tensor of {data.dtype}, {data.layout}, on {data.device}" if tensor else type(value).__name__
            raise InputError(f"{name}: expected a path, a nibabel image, or a real, dense tensor or array, got {kind}")
        placed = getattr(value, "placed", hasattr(value, "affine")) or None
        affine, step = _carried(name, value), 0.0
        channels = 2 if data.shape[:2] == (1, 1) and data.ndim - 2 in dims else 0
        channels = channels or int(bool(placed) and shared and data.shape[:1] == (1,) and data.ndim - 1 in dims)
        data = data.detach().as_subclass(Tensor).reshape(data.shape[channels:])
        stored_shape = tuple(data.shape)
        shape, axes = _layout(name, stored_shape, dims, size)
    flat = getattr(value, "flat", None) if isinstance(value, Volume) else None
    if axes[2:] != [2] or (len(shape) == 2 and len(stored_shape) > 2):
        flat = axes[2]
    return Source(name, data.reshape(shape).contiguous(), affine[:, [*axes, 3]], placed, step, shared, flat)


def read_values(name: str, image: SpatialImage, *, scaled: bool) -> Tensor:
    """The voxels, in memory as in the file: as float32 (never a float64 copy), or in the dtype of the file.

    Raises:
        InputError: colours, complex numbers or more than 64 bits; the file is damaged.
    """
    if isinstance(image, Picture):
        stored: Any = image.dataobj if scaled else image.labels
    else:
        stored = image.dataobj
        check_dtype(name, stored.dtype)
    if 0 in image.shape[:3]:
        raise InputError(f"{name}: expected voxels, got shape {image.shape}")
    if 0 in image.shape[3:] and isinstance(stored, ArrayProxy):  # counts as 1, for NIfTI's library
        shape = (*image.shape[:3], *(max(n, 1) for n in image.shape[3:]))
        place = (shape, stored.dtype, stored.offset, stored.slope, stored.inter)
        stored = ArrayProxy(stored.file_like, place, mmap=False)  # type: ignore[no-untyped-call]
    # What float32 cannot hold becomes infinite, and is reported as that.
    with reading_nifti(name, image.get_filename() or ""), np.errstate(over="ignore"):
        if isinstance(stored, ArrayProxy) and isinstance(stored.file_like, str | os.PathLike):
            size = stored.offset + stored.dtype.itemsize * math.prod(stored.shape)
            if size > room(stored.file_like):  # before memory is taken for it
                raise EOFError
        check_memory(name, (4 if scaled else 1) * math.prod(stored.shape))
        values = np.asanyarray(stored, dtype=np.float32 if scaled else None)
    return _tensor(name, values)


def check_dtype(name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        instead = _INSTEAD.get(dtype.kind, "")
        raise InputError(f"{name}: expected an integer or floating dtype of up to 64 bits, got {dtype}{instead}")


def _step(image: SpatialImage) -> float:
    slope = getattr(image.dataobj, "slope", 1.0)
    integers = getattr(image.header.get_data_dtype(), "kind", "") in "iu"
    return abs(float(slope)) if integers and slope != 1 else 0.0


def _tensor(name: str, array: np.ndarray) -> Tensor:
    """PyTorch wants the machine's byte order, memory that it may write to, and no steps backwards."""
    check_dtype(name, array.dtype)
    # Files have the first axis fastest, which PyTorch turns quicker.
    turned = array.T if array.flags.f_contiguous else array
    found = torch.from_numpy(np.require(turned, array.dtype.newbyteorder("="), ["C", "W"]))
    return found.permute(*reversed(range(array.ndim))) if turned is not array else found


def _is_plain(data: Tensor) -> bool:
    """Whether it has a real number for every voxel: not sparse, not PyTorch's "meta", and so on."""
    return data.layout == torch.strided and not (data.is_complex() or data.is_quantized or data.is_meta)


def _carried(name: str, value: Any) -> np.ndarray:
    """The affine of a volume, or of a tensor that has one, as MONAI's MetaTensor: in ``meta["space"]``, else RAS."""
    affine = getattr(value, "affine", None)
    if affine is None:
        return np.eye(4)
    affine = torch.as_tensor(affine, dtype=torch.float64).as_subclass(Tensor).cpu().numpy()
    affine = checked(name, affine[0] if affine.ndim == 3 else affine)  # of a batch of one
    space = getattr(value, "meta", {}).get("space")
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if str(getattr(space, "value", space)) == "LPS" else affine


def _layout(
    name: str, shape: tuple[int, ...], dims: Sequence[int], size: tuple[int, ...]
) -> tuple[tuple[int, ...], list[int]]:
    """The shape without axes of length 1 that say nothing, and the order in which the affine's axes then are."""
    for ndim in sorted(dims, reverse=True):
        flat = next((i for i in range(3) if ndim == 2 and shape[i : i + 1] == (1,)), -1)
        axes = [*(i for i in range(3) if i != flat), *([flat] if flat >= 0 else [])]
        spatial = tuple(shape[i] for i in axes[:ndim] if i < len(shape))
        rest = tuple(n for i, n in enumerate(shape) if i not in axes[:ndim] and i != flat)
        many = tuple(n for n in rest if n > 1)
        if len(spatial) == ndim and min(spatial) >= 2 and (not many or (spatial == size and len(many) == 1)):
            return (*spatial, *(many or rest[:1] if size else ())), axes
    kinds = " or ".join(f"a {ndim}-D image" for ndim in dims)
    raise InputError(f"{name}: expected {kinds}, got shape {shape}")
