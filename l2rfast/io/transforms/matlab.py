"""ITK's transform files in MATLAB's level 4 (.mat), which ANTs writes for affine maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from .itk import Stored

SUFFIXES = (".mat",)
MAGIC = b""  # what they begin with


def stored(path: Path) -> list[Stored]:
    """The transforms of a file, in its order.

    Raises:
        ValueError, OSError: it is no such file: FSL's and greedy's of the same suffix are text.
    """
    found: list[Stored] = []
    for name, values in loadmat(path, appendmat=False).items():
        if not isinstance(values, np.ndarray):  # what scipy says of the file
            continue
        numbers = values.astype(np.float64).ravel()
        if name == "fixed" and found:
            found[-1] = found[-1]._replace(fixed=numbers)
        else:
            found.append(Stored(name, numbers, np.zeros(0)))
    return found
