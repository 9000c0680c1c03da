"""Cases and their contestants: each is checked first, then all are timed in turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

import l2rfast

from . import machine

OURS = "l2rfast"
TRITON = f"{OURS}, Triton"
SLOW = 20.0  # seconds: what takes longer is timed in one round only
BRIEF = 5e-3  # seconds on a GPU: as many calls as take that long are timed together, to hide the launching of them
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
class Limit:
    """What a figure of ours is meant to be at most.

    Figures: ``"x floor"``, the time as a multiple of the floor; ``"x memory"``, the memory of a call as one of its
    results; ``"x memory of <peer>"``; ``"GB"``, the memory; ``"ms"``, the time; ``"share of <contestant>"``, that
    contestant's time as a part of ours; ``"% serial"``, Amdahl's serial fraction of ours.
    """

    figure: str
    bound: float


SERIAL = Limit("% serial", 5)  # of every case at full size: more cores are to help


@dataclass(frozen=True)
class Point:
    """Where a case stands in a series of them: of which, what grows along it, and how large that is here."""

    series: str
    axis: str
    at: float | str


@dataclass(frozen=True)
class Case:
    """A computation on given inputs.

    Attributes:
        name, description: for the report.
        bytes: the fewest that must move: every input read once, every output written once.
        contestants: by name; ``"l2rfast"`` is ours, the others are its peers.
        reference: the result in float64.
        tolerance: largest relative error ||out - ref|| / ||ref|| of any output that counts as correct.
        limits: on ours.
        point: where the case is one of a series.
    """

    name: str
    description: str
    bytes: int
    contestants: dict[str, Contestant]
    reference: Callable[[], Tensors]
    tolerance: float = 1e-5
    limits: tuple[Limit, ...] = ()
    point: Point | None = None


@dataclass
class Result:
    """What was measured of one contestant.

    Attributes:
        error: the relative error of its worst output.
        correct: whether that is within the tolerance; if not, nothing more was measured.
        output_bytes: of its results.
        extra_bytes: growth of the resident memory during a call, or of what PyTorch has allocated on a GPU, results
            included; None where it is not known.
        calls: timed together in a round.
        seconds: of a call, in each round.
    """

    error: float
    correct: bool
    output_bytes: int
    extra_bytes: int | None = None
    calls: int = 1
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
        name, description, bytes, tolerance, limits, point: of the case.
        bandwidth: bytes per second that a copy read and wrote, measured just before.
        targets: of the contestants that have one.
        results: by contestant.
        skipped: contestants whose package is absent, or that refuse the inputs, and the reason.
        instruction_set: of ours and of PyTorch; None on a GPU.
        threads: of all contestants.
        one_thread: seconds of ours on one thread, in each round; none where all have one.
    """

    name: str
    description: str
    bytes: int
    tolerance: float
    limits: list[Limit]
    point: Point | None
    bandwidth: float
    targets: dict[str, float] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    instruction_set: str | None = None
    threads: int = 1
    one_thread: list[float] = field(default_factory=list)

    @classmethod
    def restored(cls, content: dict[str, Any]) -> Measurement:
        """What `asdict` made of one."""
        point = content["point"]
        return cls(
            **content
            | {
                "limits": [Limit(**limit) for limit in content["limits"]],
                "point": None if point is None else Point(**point),
                "results": {name: Result(**result) for name, result in content["results"].items()},
            }
        )

    @property
    def floor(self) -> float:
        """Seconds that moving the fewest bytes takes."""
        return self.bytes / self.bandwidth

    @property
    def serial(self) -> float | None:
        """Amdahl's serial fraction s of ours, by t(n) = t(1) (s + (1 - s) / n); None where it was not measured.

        The bandwidth of the memory, where one thread uses much of it, counts as serial; below 0 is chance.
        """
        many = self.results[OURS].median
        if many is None or not self.one_thread:
            return None
        return (self.threads * many / median(self.one_thread) - 1) / (self.threads - 1)

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

    def figure(self, name: str) -> float | None:
        """The figure of ours that a limit is on; None where it was not measured."""
        ours = self.results[OURS]
        if name == "x floor":
            return self.times_floor(OURS)
        if name == "ms":
            return None if ours.median is None else 1e3 * ours.median
        if name == "% serial":
            return None if self.serial is None else 100 * self.serial
        if name == "x memory":
            return ours.times_output
        if name == "GB":
            return None if ours.extra_bytes is None else ours.extra_bytes / 1e9
        if name.startswith("share of "):
            part = self.results.get(name.removeprefix("share of "))
            return part.median / ours.median if part and part.median and ours.median else None
        peer = self.results.get(name.removeprefix("x memory of "))
        return ours.extra_bytes / peer.extra_bytes if ours.extra_bytes and peer and peer.extra_bytes else None

    def kept(self, limit: Limit) -> bool | None:
        """Whether ours keeps within a limit; None where that was not measured. No incorrect result does."""
        value = self.figure(limit.figure)
        if not self.results[OURS].correct:
            return False
        return None if value is None else value <= limit.bound


def grouped(cases: list[Measurement]) -> dict[str, list[Measurement]]:
    """The cases of a series together, by its name, the others by theirs; with every instruction set."""
    groups: dict[str, list[Measurement]] = {}
    for case in cases:
        groups.setdefault(case.point.series if case.point else case.name, []).append(case)
    return groups


class Contest:
    """A case whose contestants have been checked, and take turns: A B C, A B C, ...; slow ones in the first only.

    Our own turn is timed by whoever calls `ours`, between calls of `others`.
    """

    def __init__(self, case: Case, *, copied_bytes: int = 1 << 29) -> None:
        self._contestants = case.contestants | self._triton(case)
        self.measurement = Measurement(
            case.name,
            case.description,
            case.bytes,
            case.tolerance,
            list(case.limits),
            case.point,
            machine.copy_bandwidth(copied_bytes),
            {name: contestant.target for name, contestant in case.contestants.items() if contestant.target is not None},
            instruction_set=None if machine.on_a_gpu() else l2rfast.info().instruction_set,
            threads=torch.get_num_threads(),
        )
        reference = case.reference()
        for name, contestant in self._contestants.items():
            try:
                expected = contestant.reference() if contestant.reference else reference
                self.measurement.results[name] = _check(contestant, expected, case.tolerance)
            except ImportError as error:
                self.measurement.skipped[name] = str(error)
            except Exception as error:  # whatever a peer says that it cannot do
                if name.startswith(OURS):
                    raise
                self.measurement.skipped[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self.calls = self.measurement.results[OURS].calls

    @staticmethod
    def _triton(case: Case) -> dict[str, Contestant]:
        """On a GPU, where ours is CUDA: the same in Triton beside it."""
        ours = case.contestants[OURS]

        def run() -> Any:
            try:
                with l2rfast.backend("triton"):
                    return ours.run()
            except l2rfast.BackendError as error:
                raise ImportError(str(error)) from None

        return {TRITON: Contestant(run, ours.canonical)} if machine.on_a_gpu() else {}

    def ours(self) -> None:
        """As many of our calls as make a round."""
        run = self._contestants[OURS].run
        for _ in range(self.calls):
            run()

    def others(self) -> None:
        """A round of ours on one thread and of the correct peers, timed."""
        self._one_thread()
        for name, result in self.measurement.results.items():
            if name != OURS and result.correct and (not result.seconds or result.seconds[0] <= SLOW):
                result.seconds.append(machine.seconds(self._contestants[name].run, result.calls))

    def _one_thread(self) -> None:
        threads = self.measurement.threads
        if threads == 1 or machine.on_a_gpu() or not self.measurement.results[OURS].correct:
            return
        torch.set_num_threads(1)
        self.measurement.one_thread.append(machine.seconds(self._contestants[OURS].run))
        torch.set_num_threads(threads)


def measure_memory(measurement: Measurement, make: Callable[[], Case]) -> None:
    """Add the memory that a call of each correct contestant needs; ``make`` makes the case, in a process of its own.

    There the C allocator gives every block of a megabyte or more back at once. As it is it keeps some, and what a
    call seems to need depends on the calls before.
    """
    correct = [name for name, result in measurement.results.items() if result.correct]
    growths = machine.in_a_fresh_process(
        _growths, make, correct, MALLOC_MMAP_THRESHOLD_=str(1 << 20), GLIBC_TUNABLES=""
    )
    for name, growth in zip(correct, growths, strict=True):
        measurement.results[name].extra_bytes = growth


def _growths(make: Callable[[], Case], names: list[str]) -> list[int | None]:
    contestants = make().contestants
    for name in names:
        contestants[name].run()  # what is allocated once and for all does not count
    return [machine.memory_growth(contestants[name].run) for name in names]


def relative_error(outputs: Tensors, reference: Tensors) -> float:
    """``||out - ref|| / ||ref||`` of the worst output; infinite where shapes differ or a number is not finite.

    Outputs that are all zero, as they should be, have no error.
    """
    if [x.shape for x in outputs] != [x.shape for x in reference]:
        return math.inf
    pairs = ((x.double(), y.double()) for x, y in zip(outputs, reference, strict=True))
    errors = [0.0 if not x.any() and not y.any() else float((x - y).norm() / y.norm()) for x, y in pairs]
    return max(e if math.isfinite(e) else math.inf for e in errors)


def _check(contestant: Contestant, reference: Tensors, tolerance: float) -> Result:
    """The first call is the warm-up of the timed ones."""
    outputs = contestant.canonical(contestant.run())
    error = relative_error(outputs, reference)
    result = Result(error, error <= tolerance, sum(x.nbytes for x in outputs))
    del outputs
    if result.correct and machine.on_a_gpu():
        result.extra_bytes = machine.memory_growth(contestant.run)
        result.calls = max(1, round(BRIEF / machine.seconds(contestant.run)))
    return result
