"""Images of several contrasts of one subject, on the grid of the first."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from l2rfast.errors import InputError, notice
from l2rfast.io import Volume
from l2rfast.io.nifti import MGH, NIFTI

from .masks import counted
from .method import image_on_grid_of, on_grid_of

# By name of the argument: of which files, the volume, and what was noticed.
_LAST: dict[str, tuple[tuple[Any, ...], Volume, list[warnings.WarningMessage]]] = {}


def joined(name: str, value: Any, option: str, mask: Any, *, nan_outside: bool = False) -> Volume:
    """One image, or several contrasts, and where they count.

    Args:
        name: of the argument, for messages.
        value: what `methods.masks.counted` takes, or a list or tuple of them: those after the first are resampled to
            its grid through their headers.
        option, mask: of the first image, see `counted`.
        nan_outside: whether voxels that are NaN are not there, in any of them.

    Raises:
        InputError: an image or a mask that cannot be used, or that does not overlap the first.
    """
    if not isinstance(value, list | tuple):
        return counted(name, value, option, mask, nan_outside=nan_outside)
    if not value:
        raise InputError(f"{name}: expected an image, or one for each contrast, got none")
    first = counted(name, value[0], option, mask, nan_outside=nan_outside)
    cpu, contrasts, there = torch.device("cpu"), [], first.mask
    for number, one in enumerate(value[1:], 2):
        place = f"{name}, contrast {number}"
        other = counted(place, one, option, None, nan_outside=nan_outside)
        if other.data.ndim != first.data.ndim:
            raise InputError(f"{place}: expected {first.data.ndim} axes, as the first has, got {other.data.ndim}")
        inside = torch.ones(other.data.shape, dtype=torch.bool) if other.mask is None else other.mask
        covered = on_grid_of(first, other, inside[None, None], mode="nearest", padding="zeros")[0, 0]
        if not covered.any():
            raise InputError(f"{place}: expected an image that overlaps the first contrast, but it lies elsewhere")
        if not covered.all():
            if other.mask is None:
                notice(
                    f"{place}: covers {100 * float(covered.float().mean()):.0f} % of the first contrast; no more counts"
                )
            there = covered if there is None else there & covered
        contrasts.append(image_on_grid_of(first, other, cpu)[0, 0])
    if there is not None and not there.any():
        raise InputError(f"{name}: expected contrasts that overlap where they count")
    return replace(first, mask=there, contrasts=tuple(contrasts))


def read_once(name: str, paths: Sequence[Path], option: str, mask: Path | None, *, nan_outside: bool) -> Volume:
    """`joined`, or the volume that it gave last under this name, where all its files are as they were.

    Those are known by path, size, time of change and number; only of formats in which an image is one file.
    """
    files = [_state(path) for path in (*paths, mask) if path is not None]
    key = (*files, mask is None, nan_outside)
    known = _LAST.get(name)
    if known is None or known[0] != key:
        _LAST.pop(name, None)  # no two at a time
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            known = key, joined(name, list(paths), option, mask, nan_outside=nan_outside), said
        if all(files):
            _LAST[name] = known
    for one in known[2]:  # as often as it is asked for
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return known[1]


def _state(path: Path) -> tuple[Any, ...] | None:
    """None where that does not tell whether it is as it was."""
    if not (path.name.lower().endswith(NIFTI + MGH) and os.path.isfile(path)):
        return None
    file = path.stat()
    return os.path.abspath(path), file.st_size, file.st_mtime_ns, file.st_ino
