"""The benchmark with every instruction set, and on one thread beside several."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from contests import adds, case, measure, one_thread  # noqa: F401

from bench import __main__ as command
from bench import harness, machine, report
from bench.harness import OURS, Contestant, Point


def test_a_process_held_to_an_instruction_set_has_convolutions_and_compiled_code_of_it() -> None:
    best, lesser = (machine.limited(name) for name in ("avx512", "avx2"))
    assert (best["ATEN_CPU_CAPABILITY"], lesser["ATEN_CPU_CAPABILITY"]) == ("avx512", "avx2")
    assert lesser["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "ONEDNN_MAX_CPU_ISA" not in best
    assert best["TORCHINDUCTOR_CACHE_DIR"] != lesser["TORCHINDUCTOR_CACHE_DIR"]
    assert machine.limited(None) == {}


def test_every_instruction_set_is_measured_and_what_was_measured_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "instruction_sets", lambda: ["avx512", "avx2"])
    monkeypatch.setattr(command, "ROOT", tmp_path)
    started: list[str | None] = []

    def run(arguments: list[str], *, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        started.append(env.get("ATEN_CPU_CAPABILITY"))
        measured = measure(case(l2rfast=Contestant(adds(1)), peer=Contestant(adds(1))), 1)
        measured.instruction_set = started[-1]
        content = {"benchmarks": [{"extra_info": {"measurement": asdict(measured)}}]}
        Path(arguments[-1].removeprefix("--benchmark-json=")).write_text(json.dumps(content))
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(subprocess, "run", run)
    arguments = ["--size", "quick", "--only", "warp", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    text = (tmp_path / "cpu.md").read_text()
    assert "| instruction set | avx512, avx2 |" in text
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith(("| l2rfast | avx", "| peer"))]
    assert rows == [[f"| {name}", own] for own in ("avx512", "avx2") for name in ("l2rfast", "peer")]
    next(tmp_path.glob("build/bench/measured/*avx2*.json")).unlink()
    assert command.main([*arguments, "--resume"]) == 0
    assert started == ["avx512", "avx2", "avx2"]


def test_a_series_has_a_row_for_every_instruction_set() -> None:
    point = Point("sums", "numbers", 4)
    series = [measure(case(point=point, l2rfast=Contestant(adds(1))), 1) for _ in range(2)]
    for measured, name, seconds in zip(series, ("avx512", "avx2"), (1e-3, 2e-3), strict=True):
        measured.instruction_set, measured.results[OURS].seconds = name, [seconds]
        measured.bandwidth = 8e3
    section = report.sections(series)
    assert section.count("## sums") == 1
    assert "| l2rfast | avx512 | 1.00 (1.00) |\n| l2rfast | avx2 | 2.00 (2.00) |" in section


@pytest.mark.parametrize(
    ("one", "two", "serial", "kept"), [(2.0, 1.0, 0, True), (1.0, 0.53, 6, False), (1, 1, 100, False)]
)
def test_what_is_serial_follows_from_one_thread_and_two(one: float, two: float, serial: float, kept: bool) -> None:
    measured = measure(case(harness.SERIAL, l2rfast=Contestant(adds(1))), 1)
    assert measured.serial is None
    assert report.scaling([measured]) == []
    measured.threads, measured.one_thread, measured.results[OURS].seconds = 2, [one], [two]
    assert measured.figure("% serial") == pytest.approx(serial)
    assert measured.kept(harness.SERIAL) is kept
    text = "\n".join(report.scaling([measured]))
    assert f"| sum | {measured.instruction_set} | {report.digits(1e3 * one)} | {report.digits(1e3 * two)} |" in text
    assert f"Above 5 %: {0 if kept else 1} of 1." in text


def test_ours_has_a_turn_on_one_thread() -> None:
    torch.set_num_threads(2)
    seen: list[int] = []
    measured = measure(case(l2rfast=Contestant(lambda: seen.append(torch.get_num_threads()) or adds(1)())), 2)
    assert seen == [2, *[1, 2] * 2]
    assert (measured.threads, len(measured.one_thread)) == (2, 2)
