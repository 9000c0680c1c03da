"""Who works on many scans, the options that say it, and what they are given: of the commands for more than a pair."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from .. import _threads
from .._memory import available
from ..errors import InputError, notice
from ..methods.cohort import memory
from ..methods.cohort.bids import find_pairs
from ..methods.cohort.listed import Listed
from ..methods.cohort.study import Study
from ..methods.cohort.table import read_table
from ..methods.cohort.workers import Team, Work, dask_workers, processes
from . import lines
from .notices import say

T = TypeVar("T")
Options = Mapping[str, tuple[str, ...]]
Shape = Callable[[str], tuple[int, ...] | None]
Workers = Annotated[int | None, typer.Option(help="Processes; as many as cores, where memory allows.")]
Memory = Annotated[str | None, typer.Option(help="That they may take, as 16GB; what is free if not given.")]
Dask = Annotated[str | None, typer.Option(help="local, slurm, or a scheduler's address.")]
BidsSuffix = Annotated[str, typer.Option(help="Of the images of a BIDS data set.")]


def with_register_options(without: Collection[str] = ()) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Gives a command the options of register, but some: they arrive together, as ``common``, the values by name.

    Args:
        without: those that it has not, by their names in Python.
    """

    def given(command: Callable[..., T]) -> Callable[..., T]:
        own = [
            parameter
            for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
            if name != "common"
        ]
        added = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in lines.parameters() if each.name not in without
        ]

        @wraps(command)
        def run(**values: Any) -> T:
            common = {each.name: values.pop(each.name) for each in added}
            return command(**values, common=common)

        run.__signature__ = inspect.Signature(own + added)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in own + added}
        return run

    return given


class Crew(NamedTuple):
    """Who registers: so many processes, each with so many threads, and the bytes that one may take."""

    workers: int
    threads: int
    bytes: int
    why: str

    def __str__(self) -> str:
        text = f"{self.workers} at a time with {self.threads} threads each, {self.bytes / 1e9:.2g} GB of memory a pair"
        return f"{text} ({self.why})" if self.why else text

    def at_work(self, dask: str | None) -> AbstractContextManager[Team]:
        """As processes, or as Dask's workers, see `dask_workers`."""
        if dask is None:
            return processes(self.workers)
        return dask_workers(dask, self.workers, threads=self.threads, memory=self.bytes)


def listed(name: str, place: Path, suffix: str, to: str, without: Collection[str] = ()) -> list[Listed]:
    """Of a table or a BIDS data set.

    Args:
        name: of the argument, for messages.
        place: the file, or the folder.
        suffix, to: see `find_pairs`.
        without: options of register that are no columns, by their names in Python.
    """
    if os.path.isdir(place):
        return find_pairs(name, place, suffix=suffix, pairs=to)
    known = [option for called, option in lines.options().items() if called not in without]
    return read_table(
        name,
        place,
        [each.name for each in known],
        several=[each.name for each in known if each.several],
        flags=[each.name for each in known if each.kind is bool],
        paths=[each.name for each in known if each.kind is Path],
    )


def assembled(jobs: Sequence[Options], asked: int | None, room: str | None, shape: Shape | None = None) -> Crew:
    """As many processes as there are cores, pairs and room for, unless told; on a GPU one, which has it alone.

    Args:
        jobs: what register is to be given for each.
        asked, room: of processes, and the memory for them, where that is told.
        shape: of an image, as `methods.cohort.memory.shape`, where headers have been read already.

    Raises:
        InputError: no process is asked for, or no room for them.
    """
    limit = _threads.limit()
    cores = os.cpu_count() or 1 if limit is None else limit.cores
    shape = shape or cache(memory.shape)
    sizes = []
    for options in jobs:
        fixed, moving = (shape(options[name][0]) for name in ("fixed", "moving"))
        if fixed and moving:  # else it cannot be read, which its row will say
            sizes.append(memory.predicted(fixed, moving, options))
    if None in sizes:
        notice("--memory: what these methods take is not known, so that only --workers says how many there are")
    most = max((size for size in sizes if size is not None), default=0)
    alone = any(options.get("device", ("cpu",)) != ("cpu",) for options in jobs)
    free = available() if room is None else memory.parsed(room)
    fit = memory.workers(1 if asked is None and alone else asked, most, free, cores)
    number = max(1, min(fit.workers, len(jobs)))
    return Crew(number, max(1, cores // number), most, fit.why)


def jobs(listed: Sequence[Listed], every: Options, needed: Sequence[str]) -> dict[str, Options]:
    """What register is to be given for each pair, by its id: what its row says before what is said of all.

    Args:
        needed: of the images, what each must have.

    Raises:
        InputError: of a pair that lacks an image, or of options that register does not take.
    """
    paths = {each.name for each in lines.options().values() if each.kind is Path}
    found: dict[str, Options] = {}
    seen = set()
    for one in listed:
        options = {**every, **one.options}
        for name in needed:
            if name not in options:
                raise InputError(f"{one.where}: expected a {name} image, there or by --{name}, got none")
        without = tuple(lines.line({name: values for name, values in options.items() if name not in paths}))
        if without not in seen:
            seen.add(without)
            try:
                lines.check(without)
            except InputError as error:
                raise InputError(f"{one.where}: {error}") from error
        found[one.id] = options
    return found


def register(
    work: Work, study: Study, jobs: Mapping[str, Options], crew: Crew, team: Team, each: Callable[[], None]
) -> None:
    """Register pairs, and write down which fail, and why.

    Args:
        work: what is called with the command line of each.
        jobs: what register is to be given for each, by its id.
        crew: whose share of the threads each gets, which is not a part of what it is: its bits are the same.
        each: called as one is done.
    """
    todo = {
        id: lines.line({"threads": (str(crew.threads),), **options, "out": (str(study.pair(id).absolute()),)})
        for id, options in jobs.items()
    }
    with closing(team(work, todo)) as outcomes:
        for id, error in outcomes:
            if error is None:
                study.mended(id)
            else:
                study.failed(id, error)
                say(f"l2rfast: error: {id}: {error}")
            each()
