"""Transforms of the world: one module for each format of file, and `itk`, which knows what their numbers mean."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import InputError
from ..displacements import read_displacement
from . import hdf5, matlab, text
from .itk import Field, Transform, transform_of
from .text import write_affine

__all__ = ["Field", "Transform", "read_transform", "write_affine"]


def read_transform(name: str, path: str | os.PathLike[str]) -> Transform:
    """Read a transform as ITK has it: place of fixed -> place of moving.

    Args:
        name: of the argument, for messages.
        path: ITK's .txt, .tfm, .mat (as ANTs writes it) or .h5, of one transform; or a displacement field in NIfTI, see
            `read_displacement`.

    Returns:
        A (4, 4) map in RAS millimetres, or a displacement field.

    Raises:
        InputError: the file cannot be read, holds several transforms or none that is linear or a field.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{name}: expected a path, got {path!r}")
    name, file = f"{name} ({path})", Path(path)
    reader = next((reader for reader in (text, matlab, hdf5) if file.name.lower().endswith(reader.SUFFIXES)), None)
    if reader is None:
        return Field(*read_displacement(file))
    try:
        found = [stored for stored in reader.stored(file) if not stored.kind.startswith("CompositeTransform")]
        if len(found) != 1:
            raise InputError(f"{name}: expected one transform, got {len(found)}: join them into one first")
        return transform_of(found[0])
    except FileNotFoundError:
        raise InputError(f"{name}: expected a transform, but there is no such file") from None
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(
            f"{name}: expected a rigid or affine transform, or a displacement field, as ITK writes it, got {error}"
        ) from error
