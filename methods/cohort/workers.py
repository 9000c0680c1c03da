"""Work on many pairs by several processes: of this machine (Pebble), or the workers of a cluster (Dask).

Pebble and not ``concurrent.futures``, whose pool is lost with one process that is killed: there that costs a pair.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from pebble import ProcessExpired, ProcessPool

from l2rfast.errors import InputError

Words = Sequence[str]
Work = Callable[[Words], str | None]
Outcome = tuple[str, str | None]
# Those who work on every line: of each id, as it is done, what the work returned, or why there is nothing.
Team = Callable[[Work, Mapping[str, Words]], Generator[Outcome]]
TRIES = 2  # of a pair whose process ends before it does
STARTS = 6  # of processes that end before they begin
LOST = 300  # seconds after which a pair is lost that such a one had taken, where none works


@contextmanager
def processes(workers: int) -> Generator[Team]:
    """So many processes of this machine, which start afresh ("spawn"), and end with this, or with this process."""
    context = _Counted()
    pool = ProcessPool(workers, context=context)
    try:
        yield partial(_on_processes, pool, workers, context)
    finally:
        pool.stop()
        pool.join()


class _Counted(SpawnContext):
    """Counts the processes that it makes: Pebble starts another one for each that ends, however often that is."""

    made = 0

    def Process(self, *arguments: Any, **named: Any) -> BaseProcess:  # type: ignore[override]  # a class, in stubs
        self.made += 1
        return super().Process(*arguments, **named)


def _work(work: Work, line: Words) -> str | None:
    """In a process that works. Not by Pebble's initializer: one that is killed after that and before its first line
    breaks the pool."""
    _end_with_parent()
    return work(line)


@cache
def _end_with_parent() -> None:
    """Where the process that started this one is killed, it would else end the pair first, beside those of who goes
    on."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _on_processes(
    pool: ProcessPool, workers: int, context: _Counted, work: Work, lines: Mapping[str, Words]
) -> Generator[Outcome]:
    """See `Team`; a line whose process ends too often has failed.

    Raises:
        InputError: processes end before they begin: all of them, or too many.
    """
    tried, left = dict.fromkeys(lines, 0), iter(lines)
    known, active = context.made or workers, time.monotonic()  # processes that are accounted for; when one worked
    waiting: dict[Future[str | None], str] = {}

    def begin(id: str) -> None:
        tried[id] += 1
        with _alive(RuntimeError):
            waiting[pool.schedule(_work, args=[work, lines[id]])] = id

    while True:
        while len(waiting) < 2 * workers and (id := next(left, None)) is not None:
            begin(id)
        if not waiting:
            return
        done = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED).done
        if done or any(future.running() for future in waiting):
            active = time.monotonic()
        if context.made - known >= STARTS or (context.made > known and time.monotonic() - active > LOST):
            raise InputError(_ENDED)
        for future in done:
            id = waiting.pop(future)
            try:
                with _alive(BrokenProcessPool):
                    outcome = future.result()
            except ProcessExpired as error:
                known += 1
                if tried[id] < TRIES:
                    begin(id)
                    continue
                outcome = f"its process ended by itself, {TRIES} times (exit code {error.exitcode})"
            yield id, outcome


_ENDED = "--workers: expected processes that work, but they ended by themselves before they began; was there memory?"


@contextmanager
def _alive(broken: type[RuntimeError]) -> Generator[None]:
    """Pebble gives up where all processes end before any of them has begun.

    Args:
        broken: by which it says so.

    Raises:
        InputError: it did.
    """
    try:
        yield
    except broken as error:
        raise InputError(_ENDED) from error


@contextmanager
def dask_workers(where: str, workers: int, *, threads: int, memory: int) -> Generator[Team]:
    """Dask's workers: ``where`` is ``"local"`` for processes here, ``"slurm"`` for jobs of Slurm, or a scheduler's
    address.

    Args:
        threads: of one worker.
        memory: that a job of Slurm asks for, in bytes; the rest of what it asks for is in dask-jobqueue's own
            configuration.

    Raises:
        InputError: Dask is not installed, or there is no scheduler.
    """
    try:
        import dask.distributed  # noqa: F401
    except ImportError as error:
        raise InputError("--dask: expected dask.distributed, which is not installed: l2rfast[dask]") from error
    with ExitStack() as stack:
        yield partial(_on_dask, stack.enter_context(_client(stack, where, workers, threads, memory)))


def _on_dask(client: Any, work: Work, lines: Mapping[str, Words]) -> Generator[Outcome]:
    """See `Team`."""
    from dask.distributed import as_completed

    run = uuid.uuid4().hex  # a scheduler gives the outcome of a task that it knows by its name
    futures = {client.submit(work, words, key=f"{id}-{run}", pure=False): id for id, words in lines.items()}
    for future in as_completed(futures):
        told = future.exception()
        yield futures.pop(future), future.result() if told is None else f"{type(told).__name__}: {told}"


def _client(stack: ExitStack, where: str, workers: int, threads: int, memory: int) -> Any:
    from dask.distributed import Client, LocalCluster

    if where == "local":
        cluster: Any = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=None,  # what a pair takes is known before, and a worker that pauses never ends
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
    elif where == "slurm":
        try:
            from dask_jobqueue import SLURMCluster
        except ImportError as error:
            raise InputError(
                "--dask: expected dask-jobqueue for slurm, which is not installed: l2rfast[dask]"
            ) from error
        cluster = SLURMCluster(cores=threads, processes=1, worker_extra_args=["--nthreads=1"], memory=f"{memory}B")
        cluster.scale(workers)
    else:
        try:
            return Client(where, timeout=10)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--dask: expected local, slurm or the address of a scheduler that answers, got {where!r}"
            ) from error
    return Client(stack.enter_context(cluster))
