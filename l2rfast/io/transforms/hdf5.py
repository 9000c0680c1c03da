"""ITK's transform files in HDF5 (.h5, .hdf5)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from .itk import Stored

SUFFIXES = (".h5", ".hdf5")
MAGIC = b"\x89HDF\r\n\x1a\n"  # what they begin with


def stored(path: Path) -> list[Stored]:
    """The transforms of a file, in its order.

    Raises:
        ValueError, OSError: it is no such file.
    """
    with h5py.File(path, "r") as file:
        if "TransformGroup" not in file:
            raise ValueError("no transform file of ITK's")
        group = file["TransformGroup"]
        return [_stored(group[name]) for name in sorted(group, key=int)]


def _stored(group: h5py.Group) -> Stored:
    kind = group["TransformType"][0]
    numbers = [_numbers(group, name) for name in ("Parameters", "FixedParameters")]
    return Stored(kind.decode() if isinstance(kind, bytes) else str(kind), *numbers)


def _numbers(group: h5py.Group, name: str) -> np.ndarray:
    """ITK before 5 misspells the names; where there are no numbers there may be none."""
    for start in ("Transform", "Tranform"):
        if start + name in group:
            return np.asarray(group[start + name], np.float64)
    return np.zeros(0)
