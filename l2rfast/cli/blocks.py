"""``l2rfast register --memory``: two volumes in OME-Zarr that are larger than memory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import _check, _threads
from ..errors import InputError, notice
from ..io import zarr
from ..methods.blocks import register as blocks
from ..methods.blocks.resample import resample
from ..methods.cohort import memory as room
from ..methods.cohort.workers import dask_workers, processes
from ..output import folder_whole
from ..resampling import rounded
from .bars import bars
from .shared_options import OF_METHODS, choice

KNOWN = {"preset", "init", "init-metric", "threads", *(name.replace("_", "-") for name in OF_METHODS)}
KNOWN -= {"weights", "weight", "finetune"}
FIELD, WARPED, REPORT = "displacement.zarr", "warped.zarr", "report.json"


def register_in_blocks(
    fixed: Path,
    moving: Path,
    out: Path,
    memory: str,
    workers: int | None,
    dask: str | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Register, and write the field, the warped image and a report, which is returned, to a new folder.

    Args:
        given: the options of ``l2rfast register``, by their names in Python.

    Raises:
        InputError: anything that cannot be read, used or written; nothing is then left in ``out``.
    """
    from .lines import given as as_text

    for name, path in (("FIXED", fixed), ("MOVING", moving)):
        if not zarr.is_zarr(path):
            raise InputError(f"--memory: of images in .zarr, got {name} {path}")
    text = as_text(given)
    if other := sorted(set(text) - KNOWN):
        raise InputError(f"--{other[0]}: expected it not to be given with --memory, as volumes in blocks have it not")
    begun, quiet, bytes = time.perf_counter(), given["quiet"], room.parsed(memory)
    images = blocks.opened(fixed, moving)
    plan = blocks.planned(images, bytes, text)
    options = choice("discrete", given["preset"], "deformable", {name: given[name] for name in OF_METHODS})
    start = {name: given[name] for name in ("init", "init_metric")}
    for name in ("method", "transform"):
        del options[name]
    limit = _threads.limit()
    cores = os.cpu_count() or 1 if limit is None else limit.cores
    wanted = cores if workers is None else _check.at_least("workers", workers, 1)
    number = max(1, min(wanted, plan.together))
    if workers is not None and number < workers:
        notice(f"--workers: {number}, not {workers}, as blocks in {memory} are for {plan.together}")
    threads = max(1, (given["threads"] or cores) // number)
    team = partial(processes, number)
    if dask is not None:
        team = partial(dask_workers, dask, number, threads=threads, memory=plan.memory)
    level, grid = images.moving[0], images.fixed[0].grid
    with (
        _threads.threads(given["threads"]),
        bars(quiet) as (console, progress),
        folder_whole(out) as folder,
        torch.no_grad(),
    ):
        scratch = folder.parent / "scratch"
        scratch.mkdir()
        report = blocks.register(
            images,
            plan,
            folder / FIELD,
            scratch,
            team,
            threads=threads,
            progress=progress or (lambda name, done: None),
            options=options,
            **start,
        )
        with zarr.written(folder / WARPED, [grid], level.dtype, images.fixed[0].units) as (array,):
            resample(
                level,
                zarr.read_field("displacement", folder / FIELD),
                grid,
                array,
                memory=bytes,
                taken=lambda values: torch.from_numpy(values.astype(np.float32)),
                stored=lambda values: rounded(values, level.dtype),
                interpolation="linear",
                outside=0.0,
                dtype=torch.float32,
            )
        report |= {"fixed": str(fixed), "moving": str(moving), "memory": bytes, "workers": number}
        report["seconds"] = time.perf_counter() - begun
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    if not quiet:
        console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    return report
