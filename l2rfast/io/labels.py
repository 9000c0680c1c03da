"""Label maps and stacks of masks, on the grid of an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, notice
from .source import Source, find
from .volume import SAME, Volume, apart

_LARGEST = 2**31 - 1
_ROUNDING = 1e-3  # of labels or masks that went through floating point


def read_labels(value: Any, like: Volume, name: str = "fixed_labels") -> Volume:
    """Read a label map: whole, non-negative numbers on the grid of an image.

    A number counts as whole within 0.001 (of large ones, within a millionth), or within half a step where the file
    scales integers by less than 1, as nibabel does on its own to floating-point data with an integer header: the
    nearest whole number is what was saved.

    Args:
        value: anything that `as_volume` takes; or a stack of masks, as `read_masks` takes it, in which the i-th mask
            becomes label i, from 1 on, and a later one lies on an earlier one.
        like: the image that the labels belong to.
        name: of the argument, for error messages.

    Returns:
        The labels on the CPU, in the smallest of uint8, int16 and int32 that holds them, and the affine of the image.

    Raises:
        InputError: the file cannot be read, a value is not a label, or the grid differs from the image's
            in shape or by more than a tenth of a voxel at a corner.
    """
    source = _on_grid(name, value, like)
    if source.data.numel() > like.data.numel():
        labels = np.zeros(like.data.shape, np.int32)
        for i, mask in _masks(source):
            labels[mask] = i + 1
    else:
        labels = _whole(source).reshape(like.data.shape)
    dtype = next(d for d in (np.uint8, np.int16, np.int32) if labels.max() <= np.iinfo(d).max)
    return Volume(torch.from_numpy(labels.astype(dtype)), like.affine)


def read_masks(value: Any, like: Volume, name: str = "masks") -> dict[int, Tensor]:
    """Read labels that may overlap: a stack of masks along a last axis, or a label map.

    Each mask is 0 and one more value above it. Where the masks of a stack fill the grid, every voxel in just one, they
    are a one-hot map, whose first mask is the background (as in MONAI and nnU-Net): it is left out, which is said by
    `notice`, and the others keep their numbers. Probabilities are refused: which class a voxel is of is for whoever
    made them to say.

    Args:
        value: anything that `as_volume` takes, of shape (*spatial, L), one mask after the other, or a label map
            (*spatial) as `read_labels` takes it.
        like: the image that the labels belong to.
        name: of the argument, for error messages.

    Returns:
        By number from 0 on, the place in the stack or the label less one: (*spatial) bool. Empty masks are left out.

    Raises:
        InputError: the file cannot be read, holds other values, or is not on the grid of the image.
    """
    source = _on_grid(name, value, like)
    if source.data.ndim > like.data.ndim:
        return {i: torch.from_numpy(mask) for i, mask in _masks(source) if mask.any()}
    labels = _whole(source)
    return {int(label) - 1: torch.from_numpy(labels == label) for label in np.unique(labels) if label > 0}


def read_mask(value: Any, like: Volume, name: str = "mask") -> Tensor:
    """Read where an image counts: the voxels that are not 0, on the grid of the image.

    Args:
        value: anything that `as_volume` takes.
        like: the image.
        name: of the argument, for error messages.

    Returns:
        (*spatial) bool on the CPU.

    Raises:
        InputError: the file cannot be read, holds NaN or nothing but 0, or is not on the grid of the image.
    """
    source = _on_grid(name, value, like)
    if source.data.numel() > like.data.numel():
        raise InputError(f"{source.name}: expected one mask, got a stack of shape {tuple(source.data.shape)}")
    values = source.data.reshape(like.data.shape).cpu()
    if values.isnan().any():
        raise InputError(f"{source.name}: expected a mask, 0 where its image does not count, but it holds NaN")
    if not values.any():
        raise InputError(f"{source.name}: expected a mask, but every voxel of it is 0")
    return values != 0


def _on_grid(name: str, value: Any, like: Volume) -> Source:
    size = tuple(like.data.shape)
    source = find(name, value, (len(size),), scaled=False, size=size)
    if source.data.shape[: len(size)] != size:
        raise InputError(f"{source.name}: expected the shape of its image, {size}, got {tuple(source.data.shape)}")
    if source.placed:
        length, voxels = apart(like.affine, source.affine, size)
        if not voxels <= SAME:
            raise InputError(
                f"{source.name}: expected the affine of its image, {like.affine.round(4).tolist()}, "
                f"got {source.affine.round(4).tolist()}, {length:.3g} mm off at the farthest corner"
            )
    return source


def _numbers(values: Tensor) -> np.ndarray:
    """NumPy has no bfloat16 and no arithmetic on booleans, and float16 would round."""
    if values.is_floating_point():
        values = values.double()
    numbers: np.ndarray = (values.byte() if values.dtype == torch.bool else values).cpu().numpy()
    return numbers


def _whole(source: Source) -> np.ndarray:
    values = rounded = _numbers(source.data)
    bad = np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        rounded = np.rint(values)
        # Of single precision, up to ten times its own rounding, and of nibabel's scaling.
        within = np.clip(1e-6 * np.abs(values), _ROUNDING, 0.1)
        within = np.maximum(within, 0.5001 * source.step if source.step < 1 else 0.0)
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(values - rounded) <= within)
    bad |= (rounded < 0) | (rounded > _LARGEST)
    if bad.any():
        got = values[bad]
        ignored = " (a region to be ignored has to be 0)" if got[0] == -1 else ""
        raise InputError(
            f"{source.name}: expected labels, which are whole numbers from 0 to {_LARGEST}, "
            f"got {got[0]:.10g}{ignored} in {got.size} of {values.size} voxels"
        )
    return rounded


def _masks(source: Source) -> Iterator[tuple[int, np.ndarray]]:
    """Number and (*spatial) bool of each mask in a stack that is not the background."""
    masks = [_mask(source.name, _numbers(values)) for values in source.data.unbind(-1)]
    filled = bool((np.sum(masks, axis=0) == 1).all())
    if filled:
        notice(
            f"{source.name}: its masks fill the grid, each voxel in one: the first is taken for the background, "
            f"the others are labels 2 to {len(masks)}"
        )
    yield from ((i, mask) for i, mask in enumerate(masks) if i or not filled)


def _mask(name: str, values: np.ndarray) -> np.ndarray:
    top = np.abs(values).max()
    mask = np.asarray(np.abs(values) > _ROUNDING * top)
    inside = values[mask]
    if np.isnan(top) or (inside.size and (inside.max() - inside.min() > _ROUNDING * top or inside.min() < 0)):
        found = "NaN" if np.isnan(top) else " and ".join(f"{value:g}" for value in np.unique(inside)[[0, -1]])
        raise InputError(
            f"{name}: expected masks, each of 0 and one more value, got {found}; "
            f"of probabilities, give the label map (numpy.argmax) or masks (above a threshold)"
        )
    return mask
