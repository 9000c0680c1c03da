"""Background around images up to sizes that a network takes, and off again."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


class Padding:
    """As much before as behind, or one voxel more behind.

    Args:
        size: spatial size of the images.
        multiple: of which the sizes have to be multiples.
    """

    def __init__(self, size: Sequence[int], multiple: int) -> None:
        self._size = list(size)
        self._sides = [(room // 2, room - room // 2) for room in (-s % multiple for s in size)]

    def pad(self, image: Tensor, value: float = 0.0) -> Tensor:
        """(..., *size) -> (..., *larger), that value around."""
        return F.pad(image, [side for sides in reversed(self._sides) for side in sides], value=value)

    def crop(self, image: Tensor) -> Tensor:
        """(..., *larger) -> (..., *size), a view."""
        for axis, ((before, _), size) in enumerate(zip(self._sides, self._size, strict=True), -len(self._size)):
            image = image.narrow(axis, before, size)
        return image
