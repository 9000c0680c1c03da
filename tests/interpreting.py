"""Tests of Triton's kernels in a process of their own, as Triton interprets all kernels of one or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def check(file: str, *options: str) -> None:
    """Run the tests of a file where kernels are interpreted; what they print is what fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", file, *options, "-p", "no:cacheprovider", "--tb=short"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
