"""``l2rfast cohort``: many pairs of scans, a folder each."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from .. import _interrupt, _threads
from ..errors import InputError, notice
from ..methods.cohort import jacobians, memory, page, summary
from ..methods.cohort.bids import find_pairs
from ..methods.cohort.listed import Listed
from ..methods.cohort.study import Study
from ..methods.cohort.table import read_table
from ..methods.cohort.workers import Outcome, on_dask, on_processes
from ..output import held
from . import lines
from .shared_options import Quiet


def with_register_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of register: they arrive together, as ``common``, the values by name."""
    own = [
        parameter
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if name != "common"
    ]
    added = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in lines.parameters()]

    @wraps(command)
    def run(**values: Any) -> None:
        common = {each.name: values.pop(each.name) for each in added}
        command(**values, common=common)

    run.__signature__ = inspect.Signature(own + added)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in own + added}
    return run


Options = Mapping[str, tuple[str, ...]]


class Crew(NamedTuple):
    """Who registers: so many processes, each with so many threads, and the bytes that one may take."""

    workers: int
    threads: int
    bytes: int
    why: str

    def __str__(self) -> str:
        text = f"{self.workers} at a time with {self.threads} threads each, {self.bytes / 1e9:.2g} GB of memory a pair"
        return f"{text} ({self.why})" if self.why else text


@with_register_options
def cohort(
    *,
    pairs: Annotated[Path, typer.Argument(help="Table of pairs, .csv or .tsv, or the folder of a BIDS data set.")],
    out: Annotated[Path, typer.Option(help="Folder of the study, created if absent.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study: what is finished stays.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; as many as cores, where memory allows.")] = None,
    memory: Annotated[str | None, typer.Option(help="That they may take, as 16GB; what is free if not given.")] = None,
    dask: Annotated[str | None, typer.Option(help="local, slurm, or a scheduler's address.")] = None,
    array_index: Annotated[
        int | None, typer.Option(envvar="SLURM_ARRAY_TASK_ID", help="Which chunk to do, from 0; needs --chunk.")
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="Pairs of one task of an array.")] = None,
    bids_suffix: Annotated[str, typer.Option(help="Of the images of a BIDS data set.")] = "T1w",
    bids_pairs: Annotated[
        str, typer.Option(help="template: each to --fixed; sessions: to the first of the subject; all: to each other.")
    ] = "template",
    jacobian_statistics: Annotated[
        bool, typer.Option("--jacobian-statistics", help="Write mean and SD of the log Jacobians of all pairs.")
    ] = False,
    quiet: Quiet = False,
    common: dict[str, Any],
) -> None:
    """Register all PAIRS, each with what its row says and the options given here, and sum up.

    Where a pair cannot be registered the others are, and the exit code is 1. A row's options go before those of the
    command.
    """
    if jacobian_statistics:
        common["jacobian"] = True
    listed = _listed(pairs, bids_suffix, bids_pairs)
    jobs = _jobs(listed, lines.given(common))
    mine = dict.fromkeys(_chunk(list(jobs), array_index, chunk))
    study, console = Study(out), Console(stderr=True)
    with held(out, shared=chunk is not None):
        study.begin({id: lines.line(options) for id, options in jobs.items()}, resume=resume or chunk is not None)
        todo = {id: jobs[id] for id in mine if not study.finished(id)}
        crew = _crew(list(todo.values()), workers, memory)
        if not quiet:
            console.print(f"{len(todo)} pairs to do, {len(mine) - len(todo)} are finished; {crew}", highlight=False)
        work = {id: _line(study, id, options, crew) for id, options in todo.items()}
        try:
            with closing(_outcomes(work, crew, dask)) as outcomes, Bar(console=console, disable=quiet) as bar:
                task = bar.add_task("pairs", total=len(mine), completed=len(mine) - len(todo))
                for id, error in outcomes:
                    if error is not None:
                        study.failed(id, error)
                        typer.echo(f"l2rfast: error: {id}: {error}", err=True)
                    bar.advance(task)
        except KeyboardInterrupt as error:
            typer.echo("l2rfast: interrupted: the pairs that are finished stay, and --resume goes on", err=True)
            raise typer.Exit(_interrupt.exit_code(error)) from error
        rows = _sum_up(study, listed, jacobian_statistics)
    if not quiet:
        console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    if any(row.status != summary.FINISHED for row in rows if row.id in mine):
        raise typer.Exit(1)


def _listed(pairs: Path, suffix: str, to: str) -> list[Listed]:
    """Of a table or a BIDS data set."""
    if pairs.is_dir():
        return find_pairs(pairs, suffix=suffix, pairs=to)
    known = lines.options().values()
    return read_table(
        pairs,
        [each.name for each in known],
        several=[each.name for each in known if each.several],
        flags=[each.name for each in known if each.kind is bool],
        paths=[each.name for each in known if each.kind is Path],
    )


def _jobs(listed: Sequence[Listed], every: Options) -> dict[str, Options]:
    """What register is to be given for each pair, by its id.

    Raises:
        InputError: of a pair that lacks an image, or of options that register does not take.
    """
    paths = {each.name for each in lines.options().values() if each.kind is Path}
    jobs: dict[str, Options] = {}
    seen = set()
    for one in listed:
        options = {**every, **one.options}
        for name in ("fixed", "moving"):
            if name not in options:
                raise InputError(f"{one.where}: expected a {name} image, there or by --{name}, got none")
        without = tuple(lines.line({name: values for name, values in options.items() if name not in paths}))
        if without not in seen:
            seen.add(without)
            try:
                lines.check(without)
            except InputError as error:
                raise InputError(f"{one.where}: {error}") from error
        jobs[one.id] = options
    return jobs


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


def _crew(jobs: Sequence[Options], asked: int | None, room: str | None) -> Crew:
    """As many processes as there are cores, pairs and room for, unless told; on a GPU one, which has it alone."""
    limit = _threads.limit()
    cores = os.cpu_count() or 1 if limit is None else limit.cores
    shape = cache(memory.shape)
    sizes = []
    for options in jobs:
        fixed, moving = (shape(options[name][0]) for name in ("fixed", "moving"))
        if fixed and moving:  # else it cannot be read, which its row will say
            sizes.append(memory.predicted(fixed, moving, options))
    if None in sizes:
        notice("--memory: what these methods take is not known, so that only --workers says how many there are")
    most = max((size for size in sizes if size is not None), default=0)
    alone = any(options.get("device", ("cpu",)) != ("cpu",) for options in jobs)
    free = memory.available() if room is None else memory.parsed(room)
    fit = memory.workers(1 if asked is None and alone else asked, most, free, cores)
    number = max(1, min(fit.workers, len(jobs)))
    return Crew(number, max(1, cores // number), most, fit.why)


def _line(study: Study, id: str, options: Options, crew: Crew) -> list[str]:
    """The command line of a pair. How many threads register it is not a part of what it is: its bits are the same."""
    return lines.line({"threads": (str(crew.threads),), **options, "out": (str(study.pair(id).absolute()),)})


def _outcomes(work: dict[str, list[str]], crew: Crew, dask: str | None) -> Generator[Outcome]:
    if dask is None:
        return on_processes(lines.run, work, crew.workers)
    return on_dask(lines.run, work, crew.workers, dask, threads=crew.threads, memory=crew.bytes)


def _sum_up(study: Study, listed: Sequence[Listed], statistics: bool) -> list[summary.Row]:
    """Write the summary of all pairs, of other tasks' too, and return its rows. One process at a time does, so that the
    last knows all."""
    with held(study.folder / "pairs", wait=True):
        rows = summary.summarised(study, listed)
        summary.write_csv(study.folder / "summary.csv", rows)
        page.write_page(study.folder / "summary.html", rows, study.folder.resolve().name)
        if statistics:
            jacobians.write_jacobians(study, listed)
    return rows
