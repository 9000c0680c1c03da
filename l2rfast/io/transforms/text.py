"""ITK's transform files of text (.txt, .tfm)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..displacements import LPS
from .itk import Stored

SUFFIXES = (".txt", ".tfm")
MAGIC = b"#Insight Transform File"  # what they begin with


def write_affine(path: str | os.PathLike[str], matrix: np.ndarray, ndim: int = 3) -> None:
    """Write a map of the world as ITK's transform file (.txt), in LPS millimetres.

    Args:
        path: of the file.
        matrix: (4, 4), place of fixed -> place of moving, in NIfTI's RAS millimetres.
        ndim: of the images in ITK, see `axes_in_itk`; of two axes, which are the first of the world's.

    ITK, ANTs and SimpleITK read it; in a list of transforms it comes before `write_displacement`'s field: a place of
    fixed goes through the field first.

    Raises:
        OSError: the file cannot be written.
    """
    linear, offset = (LPS @ matrix[:3, :3] @ LPS)[:ndim, :ndim], (LPS @ matrix[:3, 3])[:ndim]
    numbers = " ".join(f"{value:.17g}" for value in [*linear.flatten(), *offset])
    text = (
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_{ndim}_{ndim}\n"
        f"Parameters: {numbers}\nFixedParameters:{' 0' * ndim}\n"
    )
    Path(path).write_text(text)


def stored(path: Path) -> list[Stored]:
    """The transforms of a file, in its order.

    Raises:
        ValueError, OSError: it is no such file.
    """
    lines = path.read_text().splitlines()
    if not lines or not lines[0].startswith("#Insight Transform File"):
        raise ValueError("no transform file of ITK's")
    found: list[Stored] = []
    for line in lines:
        key, _, value = line.partition(":")
        if key == "Transform":
            found.append(Stored(value.strip(), np.zeros(0), np.zeros(0)))
        elif key in ("Parameters", "FixedParameters") and found:
            numbers = np.array([float(number) for number in value.split()])
            last = found[-1]
            found[-1] = last._replace(parameters=numbers) if key == "Parameters" else last._replace(fixed=numbers)
    return found
