"""Fields of blocks that overlap as one field: a partition of unity, so that there are no seams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .cover import At, wider, within

Read = Callable[[int], np.ndarray]


def blended(at: At, cores: Sequence[At], halo: int, shape: Sequence[int], read: Read) -> Tensor:
    """The mean of the fields of all blocks, each by its weight.

    A weight is 1 in a block's core, but within the halo of its border, and falls to 0 at the end of the halo as 3 t^2 -
    2 t^3 does along each axis: so those of neighbours are 1 together, and field and derivative are continuous where
    theirs are. At the border of the grid it stays 1.

    Args:
        at: which part of the grid.
        cores: of the blocks, which cover the grid once.
        halo: voxels around each that it has as well, as far as the grid goes.
        shape: of the grid.
        read: the field (3, D, H, W) of the block of a number, with its halo.

    Returns:
        (1, 3, D, H, W) float32. The order of the sums is that of the blocks.
    """
    size = [part.stop - part.start for part in at]
    total, weights = torch.zeros(1, 3, *size), torch.zeros(1, 1, *size)
    for number, core in enumerate(cores):
        block = wider(core, halo, shape)
        both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(at, block, strict=True))
        if any(part.start >= part.stop for part in both):
            continue
        weight = torch.ones(1)
        for axis, (part, inner, n) in enumerate(zip(both, core, shape, strict=True)):
            along = torch.from_numpy(_weight(np.arange(part.start, part.stop), inner, halo, n)).float()
            weight = weight * along.view([-1 if k == axis else 1 for k in range(3)])
        field = torch.from_numpy(np.array(read(number)[(slice(None), *within(both, block))]))
        here = (slice(None), slice(None), *within(both, at))
        total[here] += weight * field
        weights[here] += weight
    return total.div_(weights)


def _weight(places: np.ndarray, core: slice, halo: int, n: int) -> np.ndarray:
    """Of a block at places along one axis of a grid of n voxels."""
    weight = np.ones(len(places))
    for away, ends in ((places - core.start + 0.5, core.start > 0), (core.stop - places - 0.5, core.stop < n)):
        if ends and halo:
            t = np.clip((away / halo + 1) / 2, 0, 1)
            weight *= t * t * (3 - 2 * t)
    return weight
