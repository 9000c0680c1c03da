"""What was made of a fixed image alone, kept for the next registration to it: a template's, of all that follow.

It is kept for one image at a time, as long as its `Volume` lives, and what it is made of is compared by a digest: a
volume that was changed in place, or has another mask, is another. Nothing that is kept may be changed in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from l2rfast.io import Volume

T = TypeVar("T")


class Made:
    """What was made of an image, one thing for each use."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Hashable, Any]] = {}

    def once(self, use: str, key: Hashable, make: Callable[[], T]) -> T:
        """What was made for a use, where that was by the same key; else it is made."""
        known = self._made.get(use)
        if known is None or known[0] != key:
            known = self._made[use] = key, make()
        found: T = known[1]
        return found


_LAST: WeakKeyDictionary[Volume, tuple[bytes, Made]] = WeakKeyDictionary()


def made_of(value: Any, volume: Volume) -> Made:
    """What was made of an image before; nothing yet where that is not known.

    Args:
        value: the image as the caller has it: what is made is kept where that is a `Volume`, and while it lives.
        volume: as it counts now, with its mask.
    """
    if not isinstance(value, Volume):
        return Made()
    digest, known = _digest(volume), _LAST.get(value)
    if known is None or known[0] != digest:
        _LAST.clear()
        known = _LAST[value] = digest, Made()
    return known[1]


def _digest(volume: Volume) -> bytes:
    found = hashlib.sha256(volume.affine.tobytes())
    for tensor in (volume.data, *volume.contrasts, volume.mask):
        found.update(repr(None if tensor is None else (tensor.shape, tensor.dtype, tensor.device)).encode())
        if tensor is not None:
            found.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return found.digest()
