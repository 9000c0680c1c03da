"""A case of the benchmark that takes no time, and its measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from bench import machine
from bench.harness import OURS, Case, Contest, Contestant, Limit, Measurement, Point

SMALL = 1 << 20  # bytes to copy: the bandwidth does not matter here


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The benchmark's command sets the threads of the process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def case(*limits: Limit, point: Point | None = None, **contestants: Contestant) -> Case:
    reference = (torch.full((4,), 2.0).double(),)
    name = f"sum {point.at}" if point else "sum"
    return Case(name, "One and one.", 8, contestants, lambda: reference, 1e-5, limits, point)


def measure(measured: Case, rounds: int) -> Measurement:
    """As pytest-benchmark does it: a turn of the others before each of ours."""
    contest = Contest(measured, copied_bytes=SMALL)
    ours = contest.measurement.results[OURS]
    for _ in range(rounds):
        contest.others()
        seconds = machine.seconds(contest.ours)
        ours.seconds += [seconds] if ours.correct else []
    return contest.measurement


def adds(value: float) -> Callable[[], Tensor]:
    return lambda: torch.ones(4) + value
