"""Registration of volumes larger than memory, in OME-Zarr.

The finest resolution that fits is registered whole. Each finer one goes by blocks that overlap, from the field so far,
and searches only about it; their fields become one by a partition of unity. The blocks depend on the memory, and not on
who works on them: so do the bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2rfast.errors import InputError
from l2rfast.io import zarr
from l2rfast.output import removed
from l2rfast.world import Transform

from ..cohort.memory import PROCESS, predicted
from ..cohort.workers import Team
from ..registration import register as whole
from .blend import blended
from .block import Job, work
from .cover import at_least, sides, tiles, voxels, wider

HALO = 16  # voxels around a block, of both sides of a seam: with more the error is the same
UNIT = zarr.CHUNK
NEAR = 1  # control points that the search reaches about the field so far
TOGETHER = 2  # blocks at a time, at most: of more each has too much around it that others have as well
ALONE = 1.25  # times as long as two beside each other does one process take that has all threads
_FIELDS = 20  # bytes of a voxel: the field so far, beside what a registration without a start takes
_MOVING = 20  # of a voxel of moving, with what lies around a block
_BLENDED = 100  # of a voxel of the field as it is put together and written
_PROBE = (100, 100, 100)

Progress = Callable[[str, float], None]


class Plan(NamedTuple):
    """How a pair is registered.

    Attributes:
        levels: resolutions of fixed and moving, the first one whole, the others by blocks.
        per_voxel: bytes of a block.
        memory: bytes that one process may take that works on blocks.
        together: how many of these there are to be at a time.
    """

    levels: list[tuple[int, int]]
    per_voxel: float
    memory: int
    together: int


class Images(NamedTuple):
    """The resolutions of both, and their folders."""

    fixed: list[zarr.Level]
    moving: list[zarr.Level]
    paths: tuple[Path, Path]


def opened(fixed: Path, moving: Path) -> Images:
    """See `l2rfast.io.zarr.open_levels`."""
    fixed, moving = fixed.absolute(), moving.absolute()
    images = Images(
        zarr.open_levels(f"FIXED ({fixed})", fixed), zarr.open_levels(f"MOVING ({moving})", moving), (fixed, moving)
    )
    for level in (*images.fixed, *images.moving):
        zarr.whether_whole(level)
    return images


def planned(
    images: Images, memory: int, options: Mapping[str, Sequence[str]], unit: int = UNIT, halo: int = HALO
) -> Plan:
    """Which resolutions are registered whole, and by blocks, so that it takes the least time.

    Args:
        memory: bytes of all processes.
        options: of ``l2rfast register`` as text.
        unit, halo: voxels of the least block along each axis, and around it.

    Raises:
        InputError: none fits as a whole, or no block.
    """
    per_voxel = (_predicted(_PROBE, (0,), options) - PROCESS) / math.prod(_PROBE) + _FIELDS
    pairs = [(k, _alike(level, images.moving)) for k, level in enumerate(images.fixed)]

    def taken(pair: tuple[int, int]) -> float:
        shapes = images.fixed[pair[0]].grid.shape, images.moving[pair[1]].grid.shape
        return _predicted(*shapes, options) + _FIELDS * math.prod(shapes[0])

    fit = [pair for pair in pairs if taken(pair) <= memory]
    if not fit:
        raise InputError(
            f"--memory: expected {at_least(taken(pairs[-1]))} or more for the coarsest resolution of FIXED, or a "
            f"coarser one, got {memory / 1e9:.3g} GB"
        )
    levels = [pair for pair in reversed(pairs) if pair[0] <= fit[0][0]]
    ratios = [_ratio(images.fixed[a], images.moving[b]) for a, b in levels]
    per_voxel += _MOVING * max(1.0, *ratios)
    left, shape = int(memory - PROCESS), images.fixed[0].grid.shape  # one process hands out the blocks
    if len(levels) == 1:
        return Plan(levels, per_voxel, left, TOGETHER)

    def shared(together: int) -> tuple[float, Plan]:
        each = left / together
        cut = sides(shape, unit, int(each), per_voxel, halo, besides=memory - each)
        time = voxels(shape, cut, halo) * (ALONE if together == 1 else 1.0)
        return time, Plan(levels, per_voxel, int(each), together)

    plans = [shared(1)]
    with suppress(InputError):
        plans.append(shared(TOGETHER))
    return min(plans)[1]


def _predicted(fixed: Sequence[int], moving: Sequence[int], options: Mapping[str, Sequence[str]]) -> int:
    bytes = predicted(fixed, moving, options)
    assert bytes is not None  # of the method discrete
    return bytes


def _ratio(fixed: zarr.Level, moving: zarr.Level) -> float:
    """Voxels of moving for one of fixed."""
    return math.prod(fixed.grid.spacing) / math.prod(moving.grid.spacing)


def _size(level: zarr.Level) -> float:
    """Of a voxel, as a logarithm."""
    return sum(map(math.log, level.grid.spacing))


def _alike(fixed: zarr.Level, moving: Sequence[zarr.Level]) -> int:
    """Which resolution is nearest to that of fixed."""
    return min(range(len(moving)), key=lambda k: abs(_size(fixed) - _size(moving[k])))


def register(
    images: Images,
    plan: Plan,
    out: Path,
    scratch: Path,
    team: Callable[[], AbstractContextManager[Team]],
    *,
    threads: int,
    progress: Progress,
    unit: int = UNIT,
    halo: int = HALO,
    options: Mapping[str, Any],
    **start: Any,
) -> dict[str, Any]:
    """Register two images, and write the displacement field.

    Args:
        images, plan: see `opened` and `planned`.
        out: the folder of the field, in .zarr.
        scratch: a folder for what is found on the way, about twice as large as the field.
        team: who works on the blocks of a resolution.
        threads: of each of them.
        progress: called with the name of a resolution and the fraction of it that is done.
        unit, halo: see `planned`.
        options: the preset and options of the method discrete.
        start: ``init``, ``init_metric``: see `methods.registration.register`.

    Returns:
        What was done, for a report.

    Raises:
        InputError: images that cannot be registered, a block that failed, or files that cannot be written.
    """
    first, *finer = plan.levels
    fixed, moving = images.fixed[first[0]], images.moving[first[1]]
    name = f"resolution {first[0]}, whole"
    volumes = [level.volume(zarr.whole(level.grid.shape)) for level in (fixed, moving)]
    result = whole(
        volumes[0], volumes[1], progress=lambda stage, done: progress(f"{name}: {stage}", done), **start, **options
    )
    report: dict[str, Any] = {
        "levels": [{"fixed": first[0], "moving": first[1], "blocks": 1}],
        "options": result.options,
    }
    path = out if not finer else scratch / f"{first[0]}.zarr"
    _write(path, fixed, result.transform)
    kept = {
        name: result.options[name] for name in ("preset", "metric", "full_iterations")
    }  # as the whole image decided
    chosen = {**options, **kept, "search_radius": NEAR}
    del result, volumes
    for k, (number, other) in enumerate(finer):
        before, level = path, images.fixed[number]
        path = out if k == len(finer) - 1 else scratch / f"{number}.zarr"
        shape = level.grid.shape
        side = sides(shape, unit, plan.memory, plan.per_voxel, halo)
        cores = tiles(zarr.whole(shape), side)
        files = [scratch / f"{number}-{i}.npy" for i in range(len(cores))]
        jobs = {
            str(i): Job(
                fixed=str(images.paths[0]),
                moving=str(images.paths[1]),
                levels=(number, other),
                field=str(before),
                at=[(part.start, part.stop) for part in wider(core, halo, shape)],
                out=str(file),
                options=chosen,
                threads=threads,
            ).words()
            for i, (core, file) in enumerate(zip(cores, files, strict=True))
        }
        name = f"resolution {number}, {len(cores)} blocks"
        progress(name, 0.0)
        with team() as ready, closing(ready(work, jobs)) as outcomes:
            for done, (id, error) in enumerate(outcomes, 1):
                if error is not None:
                    raise InputError(f"block {id} of resolution {number}: {error}")
                progress(name, done / len(cores))
        with zarr.written_field(path, level.grid, level.units) as writer:
            for at in tiles(zarr.whole(shape), sides(shape, zarr.CHUNK, plan.memory, _BLENDED)):
                writer.write(at, blended(at, cores, halo, shape, partial(_stored, files)))
        for file in files:
            removed(file)
        report["levels"].append({"fixed": number, "moving": other, "blocks": len(cores), "side": side})
    return report


def _stored(files: Sequence[Path], number: int) -> np.ndarray:
    field: np.ndarray = np.load(files[number], mmap_mode="r")
    return field


def _write(path: Path, level: zarr.Level, transform: Transform) -> None:
    """All of what a transform does, as a field."""
    with zarr.written_field(path, level.grid, level.units) as writer:
        writer.write(zarr.whole(level.grid.shape), transform.on(level.grid).disp)
