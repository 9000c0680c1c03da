"""``l2rfast cohort``: many pairs of scans, a folder each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import InputError, notice
from ..methods.cohort import jacobians, page, summary
from ..methods.cohort.listed import Listed
from ..methods.cohort.study import Study
from ..output import held
from ..viewer.page import NAME
from . import crew, lines
from .answer import Answer
from .bars import bar
from .shared_options import Quiet


@crew.with_register_options()
def cohort(
    *,
    pairs: Annotated[Path, typer.Argument(help="Table of pairs, .csv or .tsv, or the folder of a BIDS data set.")],
    out: Annotated[Path, typer.Option(help="Folder of the study, created if absent.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study: what is finished stays.")] = False,
    workers: crew.Workers = None,
    memory: crew.Memory = None,
    dask: crew.Dask = None,
    array_index: Annotated[
        int | None, typer.Option(envvar="SLURM_ARRAY_TASK_ID", help="Which chunk to do, from 0; needs --chunk.")
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="Pairs of one task of an array.")] = None,
    bids_suffix: crew.BidsSuffix = "T1w",
    bids_pairs: Annotated[
        str, typer.Option(help="template: each to --fixed; sessions: to the first of the subject; all: to each other.")
    ] = "template",
    bids_participant: Annotated[
        list[str] | None, typer.Option(help="As a task of several, the pairs alone that move this subject; repeated.")
    ] = None,
    jacobian_statistics: Annotated[
        bool, typer.Option("--jacobian-statistics", help="Write mean and SD of the log Jacobians of all pairs.")
    ] = False,
    quiet: Quiet = False,
    common: dict[str, Any],
) -> Answer:
    """Register all PAIRS, each with what its row says and the options given here, and sum up.

    Where a pair cannot be registered the others are, and the exit code is 1. A row's options go before those of the
    command.
    """
    if jacobian_statistics:
        common["jacobian"] = True
    listed = crew.listed("PAIRS", pairs, bids_suffix, bids_pairs)
    jobs = crew.jobs(listed, lines.given(common), ("fixed", "moving"))
    if jacobian_statistics:
        _check_jacobians(listed)
    mine, shared = dict.fromkeys(_chunk(list(jobs), array_index, chunk)), chunk is not None or bool(bids_participant)
    if bids_participant:
        moved = _of_participants(listed, bids_participant)
        mine = {id: None for id in mine if id in moved}
    study, console = Study(out), Console(stderr=True, markup=False, quiet=quiet)
    with held(out, shared=shared):
        every = {id: lines.line(options) for id, options in jobs.items()}
        study.check(every, resume=resume or shared)
        todo = {id: jobs[id] for id in mine if not study.finished(id)}
        those = crew.assembled(list(todo.values()), workers, memory)
        try:
            with those.at_work(dask) as team, bar(console, quiet) as shown:
                study.begin(every)
                finished = len(mine) - len(todo)
                console.print(f"{len(todo)} pairs to do, {finished} are finished; {those}", highlight=False)
                task = shown.add_task("pairs", total=len(mine), completed=finished)
                crew.register(lines.run, study, todo, those, team, lambda: shown.advance(task))
        except KeyboardInterrupt as error:
            error.add_note("interrupted: the pairs that are finished stay, and --resume goes on")
            raise
        rows = _sum_up(study, listed, jacobian_statistics)
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    failed = any(row.status != summary.FINISHED for row in rows if row.id in mine)
    return Answer({"out": out, "pairs": [asdict(row) for row in rows]}, failed=failed)


def _check_jacobians(listed: Sequence[Listed]) -> None:
    """See that every pair will have what the statistics are of.

    Raises:
        InputError: a row says that it is not written.
    """
    for one in listed:
        if one.options.get("jacobian") == ("false",):
            raise InputError(f"{one.where}: expected jacobian true or empty with --jacobian-statistics, got false")


def _chunk(ids: list[str], index: int | None, size: int | None) -> list[str]:
    """The ids that a task of an array does."""
    if size is None:
        if index is not None:
            notice("--array-index: says which chunk to do, and without --chunk all pairs are done")
        return ids
    if size < 1:
        raise InputError(f"--chunk: expected a positive number of pairs, got {size}")
    chunks = -(-len(ids) // size)
    if index is None or not 0 <= index < chunks:
        raise InputError(f"--array-index: expected a number from 0 to {chunks - 1}, of {chunks} chunks, got {index}")
    return ids[index * size : (index + 1) * size]


def _of_participants(listed: Sequence[Listed], labels: Sequence[str]) -> set[str]:
    """The ids of the pairs whose moving image is of these subjects.

    Raises:
        InputError: one of which there is none.
    """
    found: set[str] = set()
    for label in labels:
        folder = f"sub-{label.removeprefix('sub-')}"
        own = {one.id for one in listed if folder in Path(one.options.get("moving", ("",))[0]).parts}
        if not own:
            raise InputError(f"--bids-participant: expected a subject that a pair moves, got {label!r}")
        found |= own
    return found


def _sum_up(study: Study, listed: Sequence[Listed], statistics: bool) -> list[summary.Row]:
    """Write the summary of all pairs, of other tasks' too, and return its rows. One process at a time does, so that the
    last knows all."""
    with held(study.folder / "pairs", wait=True):
        rows = summary.summarised(study, listed)
        summary.write_csv(study.folder / "summary.csv", rows)
        page.write_page(study.folder / NAME, rows, study.folder.resolve().name)
        if statistics:
            jacobians.write_jacobians(study, listed)
    return rows
