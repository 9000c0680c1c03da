"""The stages of a registration: how long each took, and how far the present one has come."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from l2rfast._native import kept_memory

Progress = Callable[[str, float], None]


class Stages:
    """Times named stages and reports progress within them.

    Args:
        progress: called with the stage's name and the fraction of it that is done, from 0 to 1.
        budget: seconds from now on that all of it may take; steps that would take longer are left out.
    """

    def __init__(self, progress: Progress | None = None, budget: float = math.inf) -> None:
        self.end = time.perf_counter() + budget
        self.voxels, self.left_out = 0, 0  # of the image; steps for which there was no time
        self._pace = 0.0  # seconds of a step by voxel
        self.seconds: dict[str, float] = {}
        self._progress = progress or (lambda name, fraction: None)
        self._current = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start, self._current = time.perf_counter(), name
        self._progress(name, 0.0)
        with kept_memory():
            yield
        _return_free_memory()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self._progress(name, 1.0)

    def took(self, seconds: float, voxels: int) -> None:
        """A step, at a level of so many voxels."""
        self._pace = seconds / voxels

    def affords(self, voxels: int, steps: int) -> bool:
        """Whether there is time for another of the steps that remain of a level, else all of them are left out, and for
        what comes after the last, which is about as a step at full resolution."""
        enough = self.end - time.perf_counter() >= self._pace * (voxels + self.voxels)
        self.left_out += 0 if enough else steps
        return enough

    @property
    def overdue(self) -> float:
        """Seconds beyond the budget by now."""
        return max(0.0, time.perf_counter() - self.end)

    def advance(self, fraction: float) -> None:
        self._progress(self._current, fraction)


def _return_free_memory() -> None:
    """Give what earlier stages freed back to the system: glibc keeps it otherwise, and peaks add up."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
