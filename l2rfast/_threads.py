"""How many threads compute where nobody says it: as many as there are cores to run them.

PyTorch takes all cores that it sees. A container, or a job of a batch system, may have the time of only a few of them:
the CPU quota of its control group. Threads beyond that do not run; they hold up those that wait for them until the
next period begins. joblib's ``loky.cpu_count``, which would do, takes 0.1 s to import and reads the quota of the root
of what is mounted alone, not that of the group of this process, nor those of the groups around it.

Importing this changes nothing: a program's own number of threads is its own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from . import _check
from ._cgroups import groups
from .errors import InputError

SAYING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables by which a user says it to PyTorch
MOST = 1024  # threads that may be asked for: PyTorch takes any number, and dies of very many
_ROOT = Path("/")


class Limit(NamedTuple):
    """How many cores can be used, where those are not all, and why."""

    cores: int
    why: str


def limit(root: Path = _ROOT) -> Limit | None:
    """The fewer of the cores of the process's affinity and of its quota, rounded up; None where these are all."""
    allowed, quota = len(_usable()), cpu_quota(root)
    of = f"of {_count()} cores"
    if quota is not None and quota < allowed:
        return Limit(quota, f"the CPU quota of the container, {of}")
    return Limit(allowed, f"the CPU affinity of the process, {of}") if allowed < _count() else None


def cpu_quota(root: Path = _ROOT) -> int | None:
    """The cores that the control group of this process, and those around it, have the time of: the least, rounded up.

    Of version 1 (``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``) and 2 (``cpu.max``), see Linux's
    Documentation/scheduler/sched-bwc.rst and Documentation/admin-guide/cgroup-v2.rst.

    Args:
        root: of the file system.

    Returns:
        1 or more; None where there is no limit, or none that can be read.
    """
    return min((cores for group in groups("cpu", root) if (cores := _quota(group)) is not None), default=None)


def by_default() -> int:
    """What PyTorch is set to, unless it came to that by itself and it is beyond the `limit`: then that."""
    number, most = torch.get_num_threads(), limit()
    return number if most is None or number <= most.cores or _said(number) else most.cores


def described(number: int) -> str:
    """A number of threads, and what it is due to, where that is known."""
    text, most = f"{number} thread{'s' if number > 1 else ''}", limit()
    if most is None or any(map(os.environ.get, SAYING)):
        return text
    if number == most.cores:
        return f"{text}: {most.why}"
    if number > most.cores and not _said(number):
        return f"{text}, but {most.cores} in registration and training: {most.why}"
    return text


def free(root: Path = _ROOT) -> int:
    """Of the threads that compute here, how many find a core that no other process has just then: one at least.

    It is for work in small pieces: a thread that waits for its core holds up the others at the end of every piece,
    which may take many times as long as one thread alone. All of them where the system does not tell, as it does by
    ``procs_running`` in Linux's /proc/stat.
    """
    number = torch.get_num_threads()
    running: list[int] = []
    with suppress(OSError, ValueError):
        for _ in range(5):  # PyTorch's own threads wait for more to do, and run, for a while
            running += map(int, re.findall(r"^procs_running (\d+)$", (root / "proc/stat").read_text(), re.MULTILINE))
            time.sleep(0.002)
    others = min(running, default=1) - 1  # without this thread
    return max(1, min(number, _count() - others))


@contextmanager
def threads(number: int | None = None) -> Iterator[None]:
    """Inside, PyTorch and the kernels compute with so many threads; `by_default` when None.

    Raises:
        InputError: it is no positive integer, or more than `MOST`.
    """
    number = by_default() if number is None else _check.plain(number)
    if not (_check.is_integer(number) and 1 <= number <= MOST):
        raise InputError(f"threads: expected an integer from 1 to {MOST}, got {number!r}")
    before = torch.get_num_threads()
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _said(number: int) -> bool:
    """Whether a user chose this number: what PyTorch comes to by itself are the processors, or, where it is built with
    MKL, the cores, of which some are two processors. One who chooses just that is not told from one who does not."""
    if any(map(os.environ.get, SAYING)):
        return True
    return not any(number in (len(those), _cores(those)) for those in (range(_count()), _usable()))


def _count() -> int:
    return os.cpu_count() or 1


def _usable() -> Collection[int]:
    """The processors of the affinity mask."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(_count())


def _cores(processors: Collection[int]) -> int:
    """How many cores they are."""
    found = set()
    for n in processors:
        path = Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list")
        found.add(path.read_text() if path.exists() else str(n))
    return len(found)


def _quota(group: Path) -> int | None:
    """The cores that a group alone has the time of, rounded up; None where it has no limit, as the root has none."""
    with suppress(OSError, ValueError):
        if (group / "cpu.max").exists():
            time, period = map(int, (group / "cpu.max").read_text().split())  # or "max", which is no number
        else:
            time, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if time > 0 and period > 0:  # -1: none
            return -(-time // period)
    return None
