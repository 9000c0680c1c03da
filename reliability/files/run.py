"""Many inputs, in a process that may die: what it was at is known, and another goes on behind it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .attempt import CRASH, HANG, Outcome, attempt
from .inputs import Input, Inputs
from .targets import TARGETS, Target

LONGEST = 10.0  # seconds for one input, of computing
WAITED = 60.0  # seconds for one input
PART = 100  # inputs of one format, before the next has its turn: whoever interrupts a run has seen all of them
ROOM = 3 * 2**30  # bytes of addresses beyond what a process begins with
_FORK = multiprocessing.get_context("fork")

Case = tuple[int, int]  # the number of the target, and of its input


@dataclass(frozen=True)
class Failure:
    """An input that was neither read nor refused."""

    target: Target
    index: int
    outcome: Outcome


def planned(count: int, targets: Iterable[Target] = TARGETS, least: int = 0) -> dict[Target, int]:
    """How many inputs of each format, by their shares."""
    chosen = list(targets)
    whole = sum(target.share for target in chosen)
    return {target: max(least, -(-int(count * target.share) // max(1, round(whole)))) for target in chosen}


def run(plan: dict[Target, int], seed: int, said: Callable[[Failure], object]) -> dict[Target, Counter[str]]:
    """Read all that is planned.

    Args:
        plan: of `planned`.
        seed: of the damage.
        said: called with every failure.

    Returns:
        Of each format, how many inputs came to what.
    """
    found: dict[Target, Counter[str]] = {target: Counter() for target in plan}
    cases = [
        (TARGETS.index(target), index)
        for begin in range(0, max(plan.values()), PART)
        for target, count in plan.items()
        for index in range(begin, min(begin + PART, count))
    ]
    for (number, index), outcome in attempts(cases, lambda inputs, case: inputs.make(TARGETS[case[0]], case[1], seed)):
        target = TARGETS[number]
        found[target][outcome.kind] += 1
        if outcome.failed:
            said(Failure(target, index, outcome))
    return found


def attempts(cases: list[Case], make: Callable[[Inputs, Any], Input]) -> Iterator[tuple[Case, Outcome]]:
    """What comes of inputs, each of which is made and read in another process."""
    at = 0
    while at < len(cases):
        with tempfile.TemporaryDirectory(prefix="files-") as folder:
            here, there = _FORK.Pipe(duplex=False)
            child = _FORK.Process(target=_work, args=(cases[at:], make, Path(folder), there), daemon=True)
            child.start()
            there.close()
            yield from _followed(child, here, cases, at)
            at += _DONE.pop(id(here))
            here.close()


_DONE: dict[int, int] = {}


def _followed(child: Any, here: Connection, cases: list[Case], at: int) -> Iterator[tuple[Case, Outcome]]:
    """What a process says, until all is done or it dies."""
    done = 0
    try:
        while at + done < len(cases):
            if not _answered(here, child.pid):
                os.kill(child.pid, signal.SIGKILL)
                yield cases[at + done], Outcome(HANG, f"more than {LONGEST:.0f} s")
                done += 1
                break
            try:
                if (outcome := here.recv()) is None:  # of imports
                    continue
                yield cases[at + done], outcome
            except EOFError:
                child.join()
                yield cases[at + done], Outcome(CRASH, f"the process ended with {child.exitcode}")
                done += 1
                break
            done += 1
    finally:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        _DONE[id(here)] = done


def _answered(here: Connection, pid: int) -> bool:
    """Whether a process says something before it has computed for too long; or waited, where others compute as well."""
    begun, start = time.monotonic(), _computed(pid)
    while not here.poll(1.0):
        if _computed(pid) - start > LONGEST or time.monotonic() - begun > WAITED:
            return False
    return True


def _computed(pid: int) -> float:
    """Seconds that a process has computed; of one that has ended 0."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _work(cases: list[Case], make: Callable[[Inputs, Any], Input], folder: Path, there: Connection) -> None:
    os.environ["TMPDIR"] = str(folder)
    noise = os.open(folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(noise, 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    inputs, warm = Inputs(folder), set[int]()
    for case in cases:
        target = TARGETS[case[0]]
        if case[0] not in warm:  # imports are none of a file's
            warm.add(case[0])
            for number in range(len(target.makes)):
                for suffix in target.suffixes:
                    attempt(
                        target,
                        inputs.put(inputs.seed(target, number, suffix), *_same(inputs, target, number, suffix)).path,
                    )
            there.send(None)
            resource.setrlimit(resource.RLIMIT_AS, (_addresses() + ROOM, resource.RLIM_INFINITY))
        there.send(attempt(target, make(inputs, case).path, noise))
    there.close()


def _same(inputs: Inputs, target: Target, number: int, suffix: str) -> tuple[Path, bytes]:
    """A file of a seed, as it is."""
    path = inputs.seed(target, number, suffix)
    return next(iter(inputs.files(path).items()))


def _addresses() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
