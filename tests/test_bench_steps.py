"""A step of training, measured: what is counted, and what the page says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import steps
from bench.harness import OURS
from bench.steps import PLAIN, Taken

SIZE = (32, 32, 32)


def test_every_contestant_of_ours_makes_the_same_step() -> None:
    """In whatever order of memory; in bfloat16 less exactly."""
    ours = [name for name in steps.CONTESTANTS if OURS in name and "compile" not in name]
    found = steps.taken(ours, SIZE, 2)
    exact = found.pop(OURS)
    assert len(exact.seconds) == 2
    assert exact.losses[2] < exact.losses[0]
    for name, other in found.items():
        assert other.losses == pytest.approx(exact.losses, abs=2e-3 if steps.NARROW in name else 1e-5)


def test_the_page_judges_ours_by_the_plain_layers() -> None:
    def of(seconds: float, extra_bytes: int) -> Taken:
        return Taken(9.0, extra_bytes, [seconds] * 3, [0.2, 0.1])

    found = {"avx2": {PLAIN: of(6.0, 10**9), OURS: of(2.0, 7 * 10**8)}}
    text = "\n".join(steps.page(found, SIZE, 0.0))
    assert "| faster, avx2 | >= 2 | 3.00 | met |" in text
    assert "| share of memory, avx2 | <= 0.6 | 0.70 | **not met** |" in text
    assert "not to be compared" not in text
    assert "not to be compared" in "\n".join(steps.page(found, SIZE, 0.5))
    del found["avx2"][PLAIN]
    assert "asked" not in "\n".join(steps.page(found, SIZE, 0.0))


def test_the_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", OURS, "--size", "quick", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    assert steps.main(arguments) == 0
    content = json.loads((tmp_path / "steps.json").read_text())
    for of in content["steps"].values():
        assert of[OURS]["extra_bytes"] > 0
    assert (tmp_path / "steps.md").read_text() in capsys.readouterr().out
