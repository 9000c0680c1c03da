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
SLOW = 20.0  # seconds: what takes longer is timed in one round only
# glibc gives no memory back. With its cache of small blocks the pieces that aligning leaves over would stay between the
# large blocks, which then would not be used again.
KEEPING = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=0x10000000000:glibc.malloc.tcache_count=0"
}

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
        reference: its own result in float64, where it computes something else and only the times are compared.
    """

    run: Callable[[], Any]
    canonical: Callable[[Any], Tensors] = _as_it_is
    target: float | None = None
    reference: Callable[[], Tensors] | None = None


@dataclass(frozen=True)
class Case:
    """A computation on given inputs.

    Attributes:
        name, description: for the report.
        bytes: the fewest that must move: every input read once, every output written once.
        contestants: by name; ``"l2rfast"`` is ours, the others are its peers.
        reference: the result in float64.
        tolerance: largest relative error ||out - ref|| / ||ref|| of any output that counts as correct.
        floor_target: how many times the floor l2rfast is meant to take at most.
        memory_target: how many times the bytes of its results l2rfast is meant to need at most, the results included.
    """

    name: str
    description: str
    bytes: int
    contestants: dict[str, Contestant]
    reference: Callable[[], Tensors]
    tolerance: float = 1e-5
    floor_target: float | None = None
    memory_target: float | None = None


@dataclass
class Result:
    """What was measured of one contestant.

    Attributes:
        error: the relative error of its worst output.
        correct: whether that is within the tolerance; if not, nothing more was measured.
        output_bytes: of its results.
        extra_bytes: growth of the resident memory during a call, results included; None where it is not known.
        seconds: of each round.
    """

    error: float
    correct: bool
    output_bytes: int
    extra_bytes: int | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def times_output(self) -> float | None:
        """How many times the bytes of its results a call needs."""
        return None if self.extra_bytes is None else self.extra_bytes / self.output_bytes


@dataclass
class Measurement:
    """A case that has been measured.

    Attributes:
        name, description, bytes, tolerance, floor_target, memory_target: of the case.
        bandwidth: bytes per second that a copy read and wrote, measured just before.
        targets: of the contestants that have one.
        results: by contestant.
        skipped: contestants whose package is absent, and the reason.
    """

    name: str
    description: str
    bytes: int
    tolerance: float
    floor_target: float | None
    memory_target: float | None
    bandwidth: float
    targets: dict[str, float] = field(default_factory=dict)
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
        """Whether the target beside a peer is reached; None where there is none, or the peer gave nothing to compare.

        No incorrect result of ours reaches a target.
        """
        if name not in self.targets or name in self.skipped or not self.results[name].correct:
            return None
        ratio = self.ratio(name)
        return ratio is not None and ratio >= self.targets[name]

    def floor_met(self) -> bool | None:
        """Whether ours is as near to the floor as it is meant to be; None where that is not said."""
        if self.floor_target is None:
            return None
        times = self.times_floor(OURS)
        return times is not None and times <= self.floor_target

    def memory_met(self) -> bool | None:
        """Whether ours needs as little memory as it is meant to; None where that is not said, or not measured."""
        ours = self.results[OURS]
        if self.memory_target is None or (ours.correct and ours.times_output is None):
            return None
        return ours.times_output is not None and ours.times_output <= self.memory_target


def measure(case: Case, rounds: int, *, copied_bytes: int = 1 << 29) -> Measurement:
    """Check every contestant, then time the correct ones in turns: A B C, A B C, ...; slow ones in the first only."""
    measurement = Measurement(
        case.name,
        case.description,
        case.bytes,
        case.tolerance,
        case.floor_target,
        case.memory_target,
        machine.copy_bandwidth(copied_bytes),
        {name: contestant.target for name, contestant in case.contestants.items() if contestant.target is not None},
    )
    reference = case.reference()
    for name, contestant in case.contestants.items():
        try:
            expected = contestant.reference() if contestant.reference else reference
            measurement.results[name] = _check(contestant, expected, case.tolerance)
        except ImportError as error:
            measurement.skipped[name] = str(error)
    del reference
    correct = [name for name, result in measurement.results.items() if result.correct]
    # The checks were the warm-up.
    for _ in range(rounds):
        for name in correct:
            seconds = measurement.results[name].seconds
            if not seconds or seconds[0] <= SLOW:
                seconds.append(_seconds(case.contestants[name].run))
    return measurement


def measure_apart(make: Callable[[], Case], rounds: int) -> Measurement:
    """`measure` the case that ``make`` makes, in a process of its own, whose C allocator keeps what it once has.

    So it is in a training loop after the first step. Otherwise chance decides which calls the system zeroes fresh
    pages for, which takes longer than the fastest contestants.
    """
    return machine.in_a_fresh_process(_measure, make, rounds, **KEEPING)


def _measure(make: Callable[[], Case], rounds: int) -> Measurement:
    return measure(make(), rounds)


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
    pairs = ((x.double(), y.double()) for x, y in zip(outputs, reference, strict=True))
    errors = [float((x - y).norm() / y.norm()) for x, y in pairs]
    return max(e if math.isfinite(e) else math.inf for e in errors)


def _check(contestant: Contestant, reference: Tensors, tolerance: float) -> Result:
    outputs = contestant.canonical(contestant.run())
    error = relative_error(outputs, reference)
    return Result(error, error <= tolerance, sum(x.nbytes for x in outputs))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    del result  # giving its memory back is not part of the computation
    return seconds
