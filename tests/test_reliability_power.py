"""Every call that changes a file fails, or is the last of its process: the quick part of ``reliability/power``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2rfast.io.transforms.itk import matlab
from l2rfast.io.transforms.itk.stored import Stored
from reliability.power.shim import Call, available
from reliability.power.trace import lost

QUICK = ("apply-points", "data fetch")


@pytest.mark.skipif(not available(), reason="needs Linux on x86-64, gcc and seccomp")
def test_every_fault_leaves_the_old_or_the_new() -> None:
    """In a process of its own, as others are forked from it: the writers that take least."""
    words = ["--pairs=1", "--faults=KILL", "--faults=EIO", *(f"--only={name}" for name in QUICK)]
    ended = subprocess.run(
        [sys.executable, "-m", "reliability.power", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_what_power_loss_can_take_is_seen() -> None:
    folder, work = Path("/f"), "/f/.l2rfast-0"
    written = [Call("mkdir", work, ""), Call("open", f"{work}/a", ""), Call("write", f"{work}/a", "")]
    moved, synced = Call("rename", f"{work}/a", "/f/a"), Call("fsync", f"{work}/a", "")
    assert list(lost([*written, synced, moved, Call("fsync", "/f", "")], folder)) == []
    assert list(lost([*written, moved, Call("fsync", "/f", "")], folder)) == [
        ".l2rfast-0/a is renamed, and its last write may be lost",
        "the last write of a may be lost when all is done",
    ]
    assert list(lost([*written, synced, moved], folder)) == ["the last rename of . may be lost when all is done"]
    whole = Call("rename", work, "/f/out")
    assert list(lost([*written, synced, whole, Call("fsync", "/f", "")], folder)) == [
        ".l2rfast-0 is renamed, and its last open may be lost",
        "the last open of out may be lost when all is done",
    ]


def test_matlab_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    """SciPy, given a path, has an error without a number, of which a full disk could not be told."""
    with pytest.raises(FileNotFoundError):
        matlab.store(tmp_path / "gone" / "a.mat", Stored("AffineTransform_double_3_3", np.zeros(12), np.zeros(3)))
