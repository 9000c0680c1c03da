"""Transforms of the world in files: one module for each format, and here the way to it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, notice
from ...output import settle, written_whole
from ...world import Composite, Field, Inverse, Transform
from ..grids import FIELD, read_grid
from ..reading import check_file, check_memory
from ..zarr import is_zarr, read_field, whether_whole
from . import afni, arrays, dipy, elastix, flirt, fnirt, freesurfer, greedy, itk, niftyreg, spm, x5
from .format import Format, Grids

__all__ = ["FORMATS", "Grids", "read_transform", "write_transform"]

_MODULES = (afni, arrays, dipy, elastix, flirt, fnirt, freesurfer, greedy, itk, niftyreg, spm, x5)
FORMATS: dict[str, Format] = {each.name: each for each in (*(module.FORMAT for module in _MODULES), fnirt.PLACES)}


def read_transform(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    fixed: Any = None,
    moving: Any = None,
    name: str = "transform",
) -> Transform:
    """Read a transform: from places of the fixed world to those of the moving world, in RAS millimetres.

    Args:
        path: of the file, or of the folder of a field in OME-Zarr, which is read where it is needed.
        format: one of `FORMATS`; by what the file is when None.
        fixed, moving: the images between which it goes, for formats in whose voxels it is given: what `read_grid`
            takes.
        name: of the argument, for messages.

    Raises:
        InputError: the file cannot be read, is of no format that is known, or of several that mean different things;
            or more has to be known of the images.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{name}: expected a path, got {path!r}")
    file, name, grids = Path(path), f"{name} ({path})", _grids(fixed, moving)
    if is_zarr(path) and format is None:
        stored = read_field(name, path)
        whether_whole(stored.level)
        return stored
    if os.path.isdir(file):  # of a path that is too long pathlib raises
        raise InputError(f"{name}: expected a file, got a folder: name the file in it")
    check_file(name, file)
    if not os.path.isfile(file):
        raise InputError(f"{name}: expected a transform, but there is no such file")
    settle(file.parent)  # of a result, of which the next file has to be of the same run
    chosen = _named(format) if format is not None else _recognised(name, file)
    try:
        with np.errstate(all="ignore"):  # what is not finite is found below, or refused
            read = chosen.read(file, grids)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (OSError, EOFError, ValueError, OverflowError, TypeError, KeyError, IndexError) as error:
        raise InputError(f"{name}: expected {chosen.text}, got {error}") from error
    for part in read.parts if isinstance(read, Composite) else (read,):
        field = part.of if isinstance(part, Inverse) else part
        if not isinstance(field, Field) or field.disp.sum().isfinite():  # a sum is quick, and seldom overflows
            continue
        if lost := int((~field.disp.isfinite().all(1)).sum()):
            notice(
                f"{name}: its field is not finite at {lost} of {field.disp[0, 0].numel()} voxels, which lead nowhere"
            )
    return read


def write_transform(
    path: str | os.PathLike[str],
    transform: Transform,
    *,
    format: str | None = None,
    fixed: Any = None,
    moving: Any = None,
) -> None:
    """Write a transform for another tool.

    Args:
        path: of the file, which is written as a whole or not at all.
        transform: fixed -> moving.
        format: one of `FORMATS` that are written; when None ``"itk"``.
        fixed, moving: as in `read_transform`. A field is written at the voxels of fixed, or where it is given when
            that is None.

    Raises:
        InputError: an unknown format, a name with another suffix than its files have, a transform that it cannot
            hold, or more has to be known of the images.
    """
    chosen, file = _named(format or "itk"), Path(path)
    if chosen.write is None:
        written = ", ".join(name for name, each in FORMATS.items() if each.write)
        raise InputError(f"format: {chosen.name} is only read; expected one of {written}")
    if not file.name.lower().endswith(chosen.suffixes):
        raise InputError(f"{path}: expected a name that ends with {' or '.join(chosen.suffixes)}")
    grids = _grids(fixed, moving)
    if grids.fixed is not None and transform.matrix is None:
        check_memory("fixed", FIELD * math.prod(grids.fixed.size))
    with written_whole(file) as part:
        chosen.write(part, transform, grids)


def _grids(fixed: Any, moving: Any) -> Grids:
    return Grids(
        None if fixed is None else read_grid("fixed", fixed), None if moving is None else read_grid("moving", moving)
    )


def _named(format: str) -> Format:
    if format not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    return FORMATS[format]


def _recognised(name: str, file: Path) -> Format:
    found = [each for each in FORMATS.values() if each.knows(file)]
    if not found:
        raise InputError(
            f"{name}: expected a transform of one of the formats {', '.join(FORMATS)}; where a file does not tell, "
            f"name it: FORMAT:{file.name}"
        )
    if len(found) > 1:
        ways = " or ".join(f"{each.name}:{file.name} ({each.text})" for each in found)
        raise InputError(f"{name}: expected a file that can mean one thing only, say which: {ways}")
    return found[0]
