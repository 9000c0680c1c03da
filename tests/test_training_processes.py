"""Training in several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import PATIENCE, command, partly, rows, train


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in two processes."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "l2rfast.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*line, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    """And validate as one, where every pair has other measures."""
    scans = partly(tmp_path / "scans", labelled=(2, 3), landmarks=(2, 4))
    options = ("--steps=12", "--every=6", "--affine=0.1", "--intensity=0.1", "--velocity", "--hold-out=3")
    train(scans, tmp_path / "one", *options, "--batch=4")
    done = launch(*command(scans, tmp_path / "two", *options, "--batch=2"))
    assert done.returncode == 0, done.stderr
    one, two = (rows(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 12
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4), a["step"]
    for a, b in zip(*(rows(tmp_path / name, "validation") for name in ("one", "two")), strict=True):
        assert a == pytest.approx(b, abs=5e-3)
    for said in ("no labels of case0, case1, case4, but of others", "the score is DSC, of 2 of 6 validation pairs"):
        assert done.stderr.count(said) == 1


def test_an_error_of_the_first_process_ends_all(scans: Path, tmp_path: Path) -> None:
    train(scans, tmp_path / "run", "--steps=1")
    done = launch(*command(scans, tmp_path / "run", "--steps=1"))
    assert done.returncode != 0
    assert "a run is in" in done.stderr
