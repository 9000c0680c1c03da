"""A grid in blocks, as large as memory allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

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
    """Of the largest blocks that one process has room for, in multiples of a unit.

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

    def taken(of: Sequence[int]) -> int:
        return math.prod(min(n, side + 2 * halo) for n, side in zip(shape, of, strict=True))

    found = [min(unit, n) for n in shape]
    if taken(found) > room:
        needed, got = (bytes + besides for bytes in (PROCESS + per_voxel * taken(found), memory))
        size = " x ".join(map(str, found))
        raise InputError(
            f"--memory: expected {needed / 1e9:.2g} GB or more for blocks of {size} voxels, got {got / 1e9:.2g} GB"
        )
    while True:
        # The shortest first: blocks that are about cubes have the least around them.
        for axis in sorted(range(len(shape)), key=lambda k: found[k]):
            wider = [min(n + unit, shape[k]) if k == axis else n for k, n in enumerate(found)]
            if wider != found and taken(wider) <= room:
                found = wider
                break
        else:
            return found


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
