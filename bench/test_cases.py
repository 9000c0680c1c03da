"""The cases as benchmarks of pytest-benchmark: it times ours; the peers take their turns between its rounds.

`python -m bench` starts a process for each family and reads the measurements from the JSON file of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from . import machine
from .harness import OURS, SERIAL, Case, Contest, measure_memory


@pytest.mark.benchmark(timer=machine.clock)
def test_case(make: Callable[[], Case], rounds: int, full: bool, tiny: bool, benchmark: Any) -> None:
    contest = Contest(make(), copied_bytes=1 << 20 if tiny else 1 << 29)
    measurement, calls = contest.measurement, contest.calls
    if full and measurement.threads > 1 and not machine.on_a_gpu():
        measurement.limits.append(SERIAL)
    benchmark.pedantic(contest.ours, setup=contest.others, rounds=rounds)
    del contest  # and the inputs, before another process makes them
    ours = measurement.results[OURS]
    if ours.correct:
        ours.seconds = [seconds / calls for seconds in benchmark.stats.stats.data]
    if not (machine.on_a_gpu() or tiny):
        measure_memory(measurement, make)
    benchmark.extra_info["measurement"] = asdict(measurement)
