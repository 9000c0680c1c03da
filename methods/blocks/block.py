"""The registration of one block, by whoever works on it: what it needs is read, and what it finds is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from l2rfast import _threads, compose
from l2rfast.errors import InputError
from l2rfast.io import Volume, zarr
from l2rfast.io.npy import write_npy
from l2rfast.output import written_whole
from l2rfast.resampling import Resampler
from l2rfast.world.maps import Map

from ..folds import unfolded
from ..method import paired
from ..registration import choose
from ..stages import Stages

MARGIN = 16  # voxels of moving around where the field so far leads: what is searched, and half a window


@dataclass(frozen=True)
class Job:
    """What a block is registered by, as text for any process.

    Attributes:
        fixed, moving: the folders of the images.
        levels: the resolution of each.
        field: the folder of the field so far.
        at: the block with its halo, from where to where along each axis of fixed.
        out: the file to write, NumPy's, (3, D, H, W) float32 in voxels of fixed: the whole field there.
        options: of the method discrete, and the preset.
        threads: of the process.
    """

    fixed: str
    moving: str
    levels: tuple[int, int]
    field: str
    at: Sequence[Sequence[int]]
    out: str
    options: dict[str, Any]
    threads: int

    def words(self) -> list[str]:
        """As a `methods.cohort.workers.Work` is given it."""
        return [json.dumps(asdict(self))]


def work(words: Sequence[str]) -> str | None:
    """Register a block: None, or one sentence that says why that failed."""
    job = Job(**json.loads(words[0]))
    try:
        with _threads.threads(job.threads):
            field = found(job)
        with written_whole(job.out) as part:
            write_npy(part, field[0].numpy())
    except (InputError, OSError, MemoryError) as error:
        return str(error) or type(error).__name__
    return None


def found(job: Job) -> Tensor:
    """The field of a block, (1, 3, D, H, W). Where there is nothing to see in an image the one so far stays."""
    levels = [zarr.open_levels(path, path)[k] for path, k in zip((job.fixed, job.moving), job.levels, strict=True)]
    at = [slice(*ends) for ends in job.at]
    grid = levels[0].grid.part(at)
    start = zarr.read_field(job.field, job.field).on(grid).disp
    map = Map(grid.size, grid.affine, start)
    region = zarr.around(map, levels[1].grid, MARGIN)
    reaches = Resampler(map, grid, levels[1].grid.part(region)).reaches
    fixed, moving = levels[0].volume(at), levels[1].volume(region)
    if not reaches or _flat(fixed) or _flat(moving):
        return start
    method = choose("discrete", **job.options)
    with torch.inference_mode(False), torch.no_grad():
        more = method.run(paired(method, fixed, moving, torch.device("cpu"), start), Stages()).displacement
        return unfolded(compose(start, more))


def _flat(volume: Volume) -> bool:
    return bool(volume.data.min() == volume.data.max())
