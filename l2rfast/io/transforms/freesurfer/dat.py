"""tkregister's files (register.dat): read only.

Text: the subject, two voxel sizes, a factor of the intensities, and a matrix from places of surfaces of the fixed image
to those of the moving one (`surface`), for which both images have to be known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ....world import Transform
from ..format import Grids, head
from .lta import REGISTERED, transform_of

SUFFIXES = (".dat",)


def knows(file: Path) -> bool:
    """Whether all its numbers are there."""
    try:
        return _matrix(head(file, 4096).decode()).shape == (4, 4)
    except ValueError:
        return False


def load(file: Path, grids: Grids) -> Transform:
    """See `Format.read`."""
    return transform_of(_matrix(file.read_text()), REGISTERED, Grids(), grids)


def _matrix(text: str) -> np.ndarray:
    lines = [line for line in text.splitlines() if line.strip()]
    numbers = [[float(word) for word in line.split()] for line in lines[1:8]]
    if [len(row) for row in numbers] != [1, 1, 1, 4, 4, 4, 4]:
        raise ValueError("another text")
    return np.array(numbers[3:])
