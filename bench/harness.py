"""Cases and their contestants: each is checked first, then all are timed in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor

from . import machine

OURS = "l2rfast"

Tensors = tuple[Tensor, ...]


def _as_it_is(result: Any) -> Tensors:
    return result if isinstance(result, tuple) else (result,)


@dataclass(frozen=True)
class Contestant:
    """One way to compute what a case asks for.

    Attributes:
        run: computes it; nothing else is timed. Raises ImportError where its package is absent.
        canonical: brings the result into the layout of the reference.
        target: how many times faster than this peer l2rfast is meant to be.
    """

    run: Callable[[], Any]
    canonical: Callable[[Any], Tensors] = _as_it_is
    target: float | None = None


@dataclass(frozen=True)
class Case:
    """A computation on given inputs.

    Attributes:
        name, description: for the report.
        bytes: the fewest that must move: every input read once, every output written once.
        contestants: by name; ``"l2rfast"`` is ours, the others are its peers.
        reference: the result in float64.
        tolerance: largest relative error ||out - ref|| / ||ref|| of any output that counts as correct.
    """

    name: str
    description: str
    bytes: int
    contestants: dict[str, Contestant]
    reference: Callable[[], Tensors]
    tolerance: float = 1e-5


@dataclass
class Result:
    """What was measured of one contestant.

    Attributes:
        error: the relative error of its worst output.
        correct: whether that is within the tolerance; if not, nothing more was measured.
        output_bytes: of its results.
        extra_bytes: growth of the resident memory during a call, results included; None where it is not known.
        seconds: of each round.
        target: as in `Contestant`.
    """

    error: float
    correct: bool
    output_bytes: int
    target: float | None
    extra_bytes: int | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None


@dataclass
class Measurement:
    """A case that has been measured.

    Attributes:
        name, description, bytes, tolerance: of the case.
        bandwidth: bytes per second that a copy read and wrote, measured just before.
        results: by contestant.
        skipped: contestants whose package is absent, and the reason.
    """

    name: str
    description: str
    bytes: int
    tolerance: float
    bandwidth: float
    results: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def floor(self) -> float:
        """Seconds that moving the fewest bytes takes."""
        return self.bytes / self.bandwidth

    def times_floor(self, name: str) -> float | None:
        """How many times the floor a contestant takes."""
        seconds = self.results[name].median
        return None if seconds is None else seconds / self.floor

    def ratio(self, name: str) -> float | None:
        """How many times faster than a peer ours is; None where one of the two is incorrect."""
        ours, theirs = self.results[OURS].median, self.results[name].median
        return None if name == OURS or ours is None or theirs is None else theirs / ours

    def met(self, name: str) -> bool | None:
        """Whether the target beside a peer is reached, which no incorrect result does; None where none is set."""
        ratio, target = self.ratio(name), self.results[name].target
        if target is None or not self.results[name].correct:
            return None
        return ratio is not None and ratio >= target


def measure(case: Case, rounds: int, *, copied_bytes: int = 1 << 29) -> Measurement:
    """Check every contestant, then time the correct ones in turns: A B C, A B C, ..."""
    measurement = Measurement(
        case.name, case.description, case.bytes, case.tolerance, machine.copy_bandwidth(copied_bytes)
    )
    reference = case.reference()
    for name, contestant in case.contestants.items():
        try:
            measurement.results[name] = _check(contestant, reference, case.tolerance)
        except ImportError as error:
            measurement.skipped[name] = str(error)
    del reference
    correct = [name for name, result in measurement.results.items() if result.correct]
    # The checks were the warm-up.
    for _ in range(rounds):
        for name in correct:
            measurement.results[name].seconds.append(_seconds(case.contestants[name].run))
    return measurement


def measure_memory(measurement: Measurement, make: Callable[[], Case]) -> None:
    """Add the memory that a call of each correct contestant needs; ``make`` makes the case, in a process of its own.

    There the C allocator gives every block of a megabyte or more back at once. As it is it keeps some, and what a
    call seems to need depends on the calls before.
    """
    correct = [name for name, result in measurement.results.items() if result.correct]
    growths = machine.in_a_fresh_process(_growths, make, correct, MALLOC_MMAP_THRESHOLD_=str(1 << 20))
    for name, growth in zip(correct, growths, strict=True):
        measurement.results[name].extra_bytes = growth


def _growths(make: Callable[[], Case], names: list[str]) -> list[int | None]:
    contestants = make().contestants
    for name in names:
        contestants[name].run()  # what is allocated once and for all does not count
    return [machine.memory_growth(contestants[name].run) for name in names]


def relative_error(outputs: Tensors, reference: Tensors) -> float:
    """``||out - ref|| / ||ref||`` of the worst output; infinite where shapes differ or a number is not finite."""
    if [x.shape for x in outputs] != [x.shape for x in reference]:
        return math.inf
    errors = [float((x.double() - y).norm() / y.norm()) for x, y in zip(outputs, reference, strict=True)]
    return max(e if math.isfinite(e) else math.inf for e in errors)


def _check(contestant: Contestant, reference: Tensors, tolerance: float) -> Result:
    outputs = contestant.canonical(contestant.run())
    error = relative_error(outputs, reference)
    return Result(error, error <= tolerance, sum(x.nbytes for x in outputs), contestant.target)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    del result  # giving its memory back is not part of the computation
    return seconds
