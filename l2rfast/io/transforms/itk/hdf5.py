"""ITK's transform files in HDF5 (.h5, .hdf5): the composites of ANTs, with their fields.

They are written as composites always, of one transform too: nitransforms 25.1 passes over the first of a file. Numbers
name the order of parts; nitransforms sorts them as texts, which goes wrong from ten on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...hdf5 import MAGIC, opened, values_of
from ..format import head, named
from .stored import Stored, composite

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".h5", ".hdf5")


def knows(path: Path) -> bool:
    """Whether a file is one."""
    if not named(path, SUFFIXES) or not head(path).startswith(MAGIC):
        return False
    try:
        with opened(path) as file:
            return "TransformType" in file["TransformGroup/0"]
    except (ValueError, TypeError):
        return False


def load(path: Path) -> list[Stored]:
    """The transforms of a file, in its order.

    Raises:
        ValueError, TypeError: it is no such file.
    """
    with opened(path) as file:
        group = file["TransformGroup"]
        return [_stored(group[name]) for name in sorted(group, key=int)]


def _stored(group: h5py.Group) -> Stored:
    kind = group["TransformType"].asstr()[0]
    return Stored(kind, *(_numbers(group, name) for name in ("Parameters", "FixedParameters")))


def _numbers(group: h5py.Group, name: str) -> np.ndarray:
    """ITK before 5 misspells the names; where there are no numbers there may be none."""
    for start in ("Transform", "Tranform"):
        if start + name in group:
            return values_of(group[start + name])
    return np.zeros(0)


def store(path: Path, transforms: list[Stored]) -> None:
    """Write a file of several transforms.

    Raises:
        OSError: it cannot be written.
    """
    import h5py

    text = h5py.string_dtype("ascii")
    with h5py.File(path, "w") as file:
        file["ITKVersion"] = np.array(["5.4.0"], text)
        file["HDFVersion"] = np.array([h5py.version.hdf5_version], text)
        for number, transform in enumerate([composite(transforms), *transforms]):
            group = file.create_group(f"TransformGroup/{number}")
            group["TransformType"] = np.array([transform.kind], text)
            if number:
                group["TransformParameters"] = transform.parameters
                group["TransformFixedParameters"] = transform.fixed
