"""Images of which only a part counts: what is elsewhere is not to be seen by anything that compares them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from l2rfast.errors import InputError
from l2rfast.io import Volume, as_volume, read_mask


def counted(name: str, value: Any, option: str, mask: Any, *, nan_outside: bool = False) -> Volume:
    """An image and where it counts.

    Args:
        name: of the argument that is the image, for messages.
        value: see `l2rfast.io.as_volume`, 2-D or 3-D.
        option: the name of the argument that is the mask.
        mask: see `l2rfast.io.read_mask`; None where all of the image counts.
        nan_outside: whether voxels that are NaN do not.

    Raises:
        InputError: an image or a mask that cannot be used, or nothing is left.
    """
    volume = as_volume(name, value, dims=(2, 3), nan_outside=nan_outside)
    if mask is None:
        return volume
    both = read_mask(mask, volume, option)
    if volume.mask is not None:
        both &= volume.mask
    if not both.any():
        raise InputError(f"{option}: expected a mask of what is there, but all that it leaves of {name} is not")
    return replace(volume, mask=both)


def filled(volume: Volume) -> Volume:
    """What counts is repeated outwards, by the nearest voxel in mm, as is done at the border of an image.

    So neither the values elsewhere nor an edge where they begin are in anything that is made of the image: features,
    averages, interpolated values. A mask of the whole image is none.
    """
    if volume.mask is None or volume.mask.all():
        return replace(volume, mask=None)
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(
        ~volume.mask.cpu().numpy(), sampling=volume.spacing, return_distances=False, return_indices=True
    )
    data, *contrasts = (
        torch.from_numpy(image.cpu().numpy()[tuple(nearest)]) for image in (volume.data, *volume.contrasts)
    )
    return replace(volume, data=data, contrasts=tuple(contrasts))
