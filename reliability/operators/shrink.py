"""The simplest case that still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .cases import Case

TRIES = 150


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """A case of which no simpler one fails, after so many tries at most."""
    tries = 0
    while True:
        for simpler in simpler_ones(case):
            if tries == TRIES:
                return case
            tries += 1
            if fails(simpler):
                case = simpler
                break
        else:
            return case


def simpler_ones(case: Case) -> Iterator[Case]:
    """Of each part of a case something simpler, the largest steps first."""
    if case.way != "call":
        yield replace(case, way="call")
    for part in ("junk", "options", "values", "layouts"):
        for name in (given := getattr(case, part)):
            yield replace(case, **{part: {n: value for n, value in given.items() if n != name}})
    for name, (value, every) in case.values.items():
        if every != 10**9:
            yield replace(case, values=case.values | {name: (value, 10**9)})
    for part in ("batch", "channels"):
        if getattr(case, part) is not None:
            yield replace(case, **{part: None})
            if getattr(case, part) > 1:
                yield replace(case, **{part: 1})
    if case.dtype != "float32":
        yield replace(case, dtype="float32")
    for axis, n in enumerate(case.size):
        for less in dict.fromkeys((1, n // 2, n - 1)):
            if 0 < less < n:
                yield replace(case, size=(*case.size[:axis], less, *case.size[axis + 1 :]))
    for sample in (0, 1, 2, 4):
        if sample < case.sample:
            yield replace(case, sample=sample)
