"""Images: a file, or what is in memory, as a `Volume`, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import InputError, notice
from .nifti import write
from .source import find
from .volume import Volume, axes_in_itk


def read_image(path: str | os.PathLike[str]) -> Volume:
    """Read a 3-D image of any integer or floating dtype as float32; trailing axes of length 1 are dropped.

    Args:
        path: of any format of docs/reference/input.md.

    Returns:
        The image and its affine, from voxels to RAS millimetres.

    Raises:
        InputError: as `as_volume`.
    """
    return as_volume("image", path)


def as_volume(name: str, value: Any, *, dims: Sequence[int] = (3,), nan_outside: bool = False) -> Volume:
    """Take an image from wherever it comes.

    Args:
        name: of the argument, for error messages.
        value: a path, of any format of docs/reference/input.md, a nibabel image, a `Volume`, or a tensor or array of
            shape (D, H, W) or (1, 1, D, H, W), which gets the identity affine: voxels of 1 mm. A tensor that has an
            ``affine``, as MONAI's MetaTensor, keeps it, and may have the shape (1, D, H, W). Values are copied, but for
            a `Volume`'s.
        dims: how many axes it may have. An image of one slice counts as 2-D, whichever of its three axes is the one of
            length 1: that one's direction becomes the third of the affine.
        nan_outside: voxels that are NaN are not there: they stay, and the mask of the volume leaves them out.

    Raises:
        InputError: the type is none of these, or the file is missing, damaged or of another kind; the image has other
            axes, colours or complex numbers, or where it counts is constant or holds NaN or infinite values; the affine
            is singular.
    """
    source = find(name, value, dims, scaled=True)
    data = source.data.to(torch.float32, copy=source.shared).contiguous()
    mask = value.mask.reshape(data.shape) if isinstance(value, Volume) and value.mask is not None else None
    if nan_outside and (unknown := data.isnan()).any():
        mask = ~unknown if mask is None else mask & ~unknown
    seen = data if mask is None else data[mask]
    if not seen.numel():
        raise InputError(f"{source.name}: expected an image, but no voxel of it is there")
    low, high = torch.stack(torch.aminmax(seen)).tolist()
    if not np.isfinite([low, high]).all():
        wrong = int((~seen.isfinite()).sum())
        raise InputError(
            f"{source.name}: expected finite values, but {wrong} of {seen.numel()} voxels are NaN or infinite in "
            f"float32; where NaN stands for what is not there, register takes it so (--nan-outside, nan_outside=True)"
        )
    if low == high:
        raise InputError(f"{source.name}: expected an image, but every voxel has the value {low:g}")
    if source.placed is False:
        notice(
            f"{source.name}: nothing in its header says where it lies (both form codes are 0): its first voxel is "
            f"taken for the origin and its axes for left, posterior and superior, as ITK does"
        )
    contrasts = value.contrasts if isinstance(value, Volume) else ()
    others = tuple(image.float().reshape(data.shape) for image in contrasts)
    return Volume(data, source.affine, mask, bool(source.placed), source.flat, others)


def write_image(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write an image as float32, or labels in their integer dtype, to a .nii or .nii.gz file.

    qform and sform both carry the affine, with code 1, in millimetres. A sheared one, which a qform cannot express,
    goes into the sform alone; ITK, which has no room for shears, refuses to read the file. A slice of a file that has
    an axis of length 1 gets it back; another one that does not lie along the first two axes of the world is written as
    (1, H, W), so that ITK sees where it lies.

    Args:
        path: of the file.
        volume: the image or the labels.

    Raises:
        InputError: another suffix, or an integer dtype other than uint8, int16 and int32.
        OSError: the file cannot be written.
    """
    data, affine = volume.data.float() if volume.data.is_floating_point() else volume.data, volume.affine
    if axes_in_itk(volume) > data.ndim:
        flat, axes = volume.flat or 0, [0, 1]
        axes.insert(flat, 2)
        data, affine = data.unsqueeze(flat), affine[:, [*axes, 3]]
    if data.dtype not in (torch.float32, torch.uint8, torch.int16, torch.int32):
        raise InputError(f"volume: expected a floating dtype, uint8, int16 or int32, got {data.dtype}")
    write(path, data, affine)
