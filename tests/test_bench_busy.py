"""Registration beside other processes: how it is timed, and what the report says of it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from contests import one_thread  # noqa: F401

from bench import busy, machine, runs
from bench.runs import Taken
from l2rfast import InputError
from l2rfast.io import Volume


def others() -> int:
    """Processes that were started to keep a core busy, and are there."""
    children = psutil.Process().children()
    # A process counts as started a moment before Linux tells its arguments.
    patience = time.monotonic() + 10
    while not all(child.cmdline() for child in children) and time.monotonic() < patience:
        time.sleep(0.001)
    return sum(busy.ENDLESS in child.cmdline() for child in children)


def taken(seconds: float, disturbed: float = 0.0) -> Taken:
    return Taken(seconds, 2 * seconds, disturbed, None, None, "avx2")


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Volume(torch.zeros(4, 5, 6), np.eye(4))
    labels = torch.zeros(4, 5, 6)
    monkeypatch.setattr(busy, "load_pair", lambda step: (image, image, (labels, labels)))


@pytest.mark.usefixtures("pair")
def test_every_set_is_timed_alone_and_beside_one_and_two_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def run(tool: str, fixed: Volume, moving: Volume, threads: int, kept: Path, instruction_set: str) -> Taken:
        seen.append((instruction_set, others()))
        slower = 1 + seen[-1][1] * (0.25 if instruction_set == "avx2" else 0.5)
        return taken(slower * (1 + (len(seen) - 1) // 6))  # the second round takes twice as long

    monkeypatch.setattr(machine, "instruction_sets", lambda: ["avx512", "avx2"])
    monkeypatch.setattr(runs, "run", run)
    assert busy.main(["--rounds", "2", "--out", str(tmp_path)]) == 0
    assert seen == [(name, n) for _ in range(2) for name in ("avx512", "avx2") for n in (0, 1, 2)]
    assert others() == 0
    content: dict[str, Any] = json.loads((tmp_path / "busy.json").read_text())
    assert content["shape"] == [4, 5, 6]
    assert content["times"] == {"avx512": {"0": 1, "1": 1.5, "2": 2}, "avx2": {"0": 1, "1": 1.25, "2": 1.5}}


def report(size: str = "full", disturbed: float = 0.0) -> busy.Busy:
    made = busy.Busy(size, [4, 5, 6], {"threads": 2, "logical processors": 2}, {})
    seconds = {0: [2.0, 4.0, 2.0], 1: [2.8, 5.8, 10.0], 2: [4.4, 8.4, 3.0]}
    made.taken = {"avx2": {n: [taken(one, disturbed) for one in own] for n, own in seconds.items()}}
    return made


def test_the_median_of_the_rounds_is_held_against_the_bound() -> None:
    text = report().markdown()
    assert "| alone | avx2 | 2.00 [2.00, 4.00] |  |  |" in text
    assert "| beside one process | avx2 | 5.80 [2.80, 10.0] | 1.45 | <= 1.5: met |" in text
    made = report()
    made.taken["avx2"][2] = [taken(one) for one in (4.4, 8.8, 3.0)]
    assert "| beside two processes | avx2 | 4.40 [3.00, 8.80] | 2.20 | <= 2.1: **not met** |" in made.markdown()


@pytest.mark.parametrize("made", [report("quick"), report(disturbed=0.5)])
def test_small_images_and_a_disturbed_machine_tell_nothing_of_the_bound(made: busy.Busy) -> None:
    assert made.markdown().count("not measured") == 2
    assert ("not to be compared" in made.markdown()) == made.disturbed("avx2")


def test_without_the_scans_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(step: int) -> None:
        raise InputError("no scans")

    monkeypatch.setattr(busy, "load_pair", absent)
    assert busy.main(["--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "Skipped: no scans\n"
    assert not (tmp_path / "out").exists()


def test_the_others_end_where_a_run_fails() -> None:
    def fails() -> None:
        with busy.beside(1):
            assert others() == 1
            raise subprocess.SubprocessError

    with pytest.raises(subprocess.SubprocessError):
        fails()
    assert others() == 0
