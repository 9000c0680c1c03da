"""What every format of points gives, and the systems of coordinates that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

RAS = np.eye(4)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS from it, and it from RAS
Text = TypeVar("Text", str, bytes)
SYSTEMS = {"ras": RAS, "lps": LPS}


class Stored(NamedTuple):
    """The points of a file.

    Attributes:
        values: (M, 2) or (M, 3) float64, as the file has them.
        frame: (4, 4) that takes them to RAS millimetres; None where the file does not say.
        names: of each, empty where it has none.
        write: a file that is the same but for its points, of ``values``' shape.
    """

    values: np.ndarray
    frame: np.ndarray | None
    names: list[str]
    write: Callable[[Path, np.ndarray], None]


class Format(NamedTuple):
    """One format: what its module offers.

    Attributes:
        text: what it is, in a few words.
        suffixes: of its files.
        read: a file, and the name of the system that was asked for, or None, which most have no use for. Raises
            OSError, ValueError, TypeError, KeyError or IndexError where it is none.
    """

    text: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, str | None], Stored]


def replaced(whole: Text, pieces: Iterable[tuple[int, int, Text]]) -> Text:
    """A text or bytes with others in place of some, given by where these begin and end, in order."""
    parts: list[Text] = []
    at = 0
    for begin, end, piece in pieces:
        parts += [whole[at:begin], piece]
        at = end
    parts.append(whole[at:])
    return whole[:0].join(parts)
