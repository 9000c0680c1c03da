"""A grid in blocks, as large as memory allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from l2rfast.errors import InputError

from ..cohort.memory import PROCESS

At = tuple[slice, ...]


def tiles(at: Sequence[slice], sides: Sequence[int]) -> list[At]:
    """Parts of a grid, in order, of so many voxels along each axis; the last along one are smaller."""
    axes = [
        [slice(start, min(start + side, part.stop)) for start in range(part.start, part.stop, side)]
        for part, side in zip(at, sides, strict=True)
    ]
    return list(product(*axes))


def sides(
    shape: Sequence[int], unit: int, memory: int, per_voxel: float, halo: int = 0, besides: float = 0
) -> list[int]:
    """Of the blocks that one process has room for, in multiples of a unit, with the fewest voxels in all; of those as
    few blocks as there may be.

    Args:
        shape: of the grid.
        unit: voxels along each axis.
        memory: bytes of the process, Python and PyTorch among them.
        per_voxel: bytes, of voxels of the halo too.
        halo: voxels to each side.
        besides: bytes that others take of what was asked for, for messages.

    Raises:
        InputError: there is no room for one unit.
    """
    room = (memory - PROCESS) / per_voxel
    axes = [_shares(n, unit, halo) for n in shape]
    least = [axis[-1] for axis in axes]
    if math.prod(share.longest for share in least) > room:
        needed = PROCESS + per_voxel * math.prod(share.longest for share in least)
        size = " x ".join(str(share.side) for share in least)
        raise InputError(
            f"--memory: expected {at_least(needed + besides)} or more for blocks of {size} voxels, "
            f"got {(memory + besides) / 1e9:.3g} GB"
        )
    fitting = (
        (*others, last)
        for others in product(*axes[:-1])
        if (last := _first(axes[-1], room / math.prod(share.longest for share in others))) is not None
    )
    best = min(fitting, key=lambda each: tuple(math.prod(numbers) for numbers in zip(*each, strict=True))[:2])
    return [share.side for share in best]


def at_least(bytes: float) -> str:
    """For messages, rounded up: who gives as much has enough."""
    return f"{math.ceil(bytes / 1e7) / 100:g} GB"


class _Share(NamedTuple):
    """An axis in blocks: voxels of all of them with their halos, how many there are, the longest with its halo, and
    without."""

    all: int
    number: int
    longest: int
    side: int


def _shares(n: int, unit: int, halo: int) -> list[_Share]:
    """Each way to cut an axis, the longest blocks first."""
    found = []
    for side in range(-(-n // unit) * unit, 0, -unit):
        count = -(-n // side)
        longest = min(n, side + halo * min(2, count - 1))
        found.append(_Share(n + 2 * halo * (count - 1), count, longest, min(n, side)))
    return found


def _first(axis: Sequence[_Share], room: float) -> _Share | None:
    """The longest blocks for which there is room, in voxels."""
    return next((share for share in axis if share.longest <= room), None)


def voxels(shape: Sequence[int], sides: Sequence[int], halo: int) -> int:
    """Of all blocks, with their halos."""
    return math.prod(n + 2 * halo * (-(-n // side) - 1) for n, side in zip(shape, sides, strict=True))


def wider(at: At, halo: int, shape: Sequence[int]) -> At:
    """A block and so many voxels around it, as far as the grid goes."""
    return tuple(slice(max(0, part.start - halo), min(n, part.stop + halo)) for part, n in zip(at, shape, strict=True))


def within(at: At, other: At) -> At:
    """A block in voxels of another that holds it."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(at, other, strict=True))


def around(blocks: Sequence[At]) -> At:
    """The least block that holds others."""
    return tuple(
        slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in zip(*blocks, strict=True)
    )
