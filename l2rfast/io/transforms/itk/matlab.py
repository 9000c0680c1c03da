"""ITK's transform files in MATLAB's level 4 (.mat), which ANTs writes for affine maps.

SciPy is given open files: of one that it cannot open itself it does not say why.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..format import named
from .stored import Stored

SUFFIXES = (".mat",)


def knows(path: Path) -> bool:
    """Whether a file is one: FSL's and greedy's of the same suffix are text, and other programs have other names."""
    if not named(path, SUFFIXES):
        return False
    try:
        names = [name for name, _ in _shapes(path)]
    except (OSError, ValueError):
        return False
    return bool(names) and names[0].split("_")[0].endswith(("Transform", "TransformBase"))


def load(path: Path) -> list[Stored]:
    """The transforms of a file, in its order.

    Raises:
        ValueError, OSError: it is no such file, or ends early.
    """
    from scipy.io import loadmat  # slow to import, as all of SciPy

    found: list[Stored] = []
    room = path.stat().st_size
    for name, shape in _shapes(path):
        if len(shape) > 2 or not 0 <= np.prod([float(n) for n in shape]) <= room:
            raise ValueError(f"{name} of shape {shape}, for which the file is too short")
    with path.open("rb") as file:
        arrays = loadmat(file)
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):  # what scipy says of the file
            continue
        numbers = values.astype(np.float64).ravel()
        if name == "fixed" and found:
            found[-1] = found[-1]._replace(fixed=numbers)
        else:
            found.append(Stored(name, numbers, np.zeros(0)))
    return found


def _shapes(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Of the arrays of a file, in its order, by its headers.

    Raises:
        ValueError, OSError: it is none of MATLAB's.
    """
    from scipy.io import whosmat
    from scipy.io.matlab import MatReadError

    try:
        with path.open("rb") as file:
            return [(name, shape) for name, shape, _ in whosmat(file)]
    except (EOFError, TypeError, LookupError, NotImplementedError, MatReadError) as error:
        raise ValueError(f"no file of MATLAB's ({error})") from error


def store(path: Path, transform: Stored) -> None:
    """Write a file of one transform.

    Raises:
        OSError: it cannot be written.
    """
    from scipy.io import savemat

    numbers = {transform.kind: transform.parameters, "fixed": transform.fixed}
    with path.open("wb") as file:
        savemat(file, numbers, format="4", oned_as="column")
