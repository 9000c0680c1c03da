"""ITK's transform files of text (.txt, .tfm)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..format import head, named
from .stored import Stored

SUFFIXES = (".txt", ".tfm")
_TITLE = "#Insight Transform File"


def knows(path: Path) -> bool:
    """Whether a file is one."""
    return named(path, SUFFIXES) and head(path).startswith(_TITLE.encode())


def load(path: Path) -> list[Stored]:
    """The transforms of a file, in its order.

    Raises:
        ValueError, OSError: it is no such file.
    """
    found: list[Stored] = []
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "Transform":
            found.append(Stored(value.strip(), np.zeros(0), np.zeros(0)))
        elif key in ("Parameters", "FixedParameters") and found:
            numbers = np.array([float(number) for number in value.split()])
            last = found[-1]
            found[-1] = last._replace(parameters=numbers) if key == "Parameters" else last._replace(fixed=numbers)
    return found


def store(path: Path, transform: Stored) -> None:
    """Write a file of one transform.

    Raises:
        OSError: it cannot be written.
    """
    parameters, fixed = (
        "".join(f" {value:.17g}" for value in values) for values in (transform.parameters, transform.fixed)
    )
    path.write_text(
        f"{_TITLE} V1.0\n#Transform 0\nTransform: {transform.kind}\nParameters:{parameters}\nFixedParameters:{fixed}\n"
    )
