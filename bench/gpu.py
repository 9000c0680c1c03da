"""``python -m bench.gpu``: all that a machine with a GPU, nvcc and PyTorch is needed for, in one command, offline.

In parts, of which each that is done stays done when the command is given again:

- ``build``: the package in place, with the CUDA kernels for the cards that are here;
- ``test``: every test that has to do with a GPU, on all its backends;
- ``sanitize``: compute-sanitizer on the CUDA kernels, where it is installed;
- ``tune``: the shapes of Triton's launches, printed and kept for the cards that are here;
- ``bench``: the benchmark, and its report.

Nothing is downloaded. Of Python packages it needs those of the tests and the benchmark that are not peers: pytest,
pytest-benchmark, pytest-xdist, hypothesis, psutil and matplotlib; a peer that is absent is named as skipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import UNFINISHED

ROOT = Path(__file__).parent.parent
DONE = ROOT / "build" / "gpu"
GO_ON = "give the command again to go on"
PYTHON = sys.executable
BACKENDS = "cuda or triton"
# What has a backend among its parameters.
TESTS = ["tests/test_operators.py", "tests/test_local_ncc.py", "tests/test_discrete_layers.py"]
TESTS += ["tests/test_discrete_displacement.py", "tests/test_warp.py", "tests/test_warp_many.py"]
TESTS += ["tests/test_grid_sample.py", "tests/test_fields.py"]
PIP = [PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
# Another PyTorch than the tests' own may warn of what theirs does not.
PYTEST = [PYTHON, "-m", "pytest", "-W", "default", "-p", "no:cacheprovider", "-p", "no:benchmark"]
SANITIZED = ["tests/test_operators.py", "-k", "test_values_and_gradients and cuda and float32"]
# Commands of a part, and the seconds that it may take.
PARTS: dict[str, tuple[list[list[str]], int]] = {
    "build": ([[*PIP, "-e", "."]], 150),
    "test": ([[*PYTEST, "-n", "8", "--dist", "loadfile", *TESTS, "-k", BACKENDS]], 150),
    "sanitize": (
        [
            ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", *PYTEST, *SANITIZED]
            for tool in ("memcheck", "racecheck")
        ],
        90,
    ),
    "tune": ([[PYTHON, "-m", "bench.tune", "--minutes=1"]], 100),
    "bench": ([[PYTHON, "-m", "bench", "--device=cuda", "--rounds=5", "--resume", "--minutes=2"]], 180),
}


def run(name: str, again: bool, end: float) -> str:
    """Run a part, until that time at the latest; how it ended."""
    commands, seconds = PARTS[name]
    marker = DONE / f"{name}.done"
    if marker.exists() and not again:
        return "done before"
    missing = [command[0] for command in commands if shutil.which(command[0]) is None]
    if missing:
        return f"skipped: there is no {missing[0]}"
    start = time.monotonic()
    end = min(end, start + seconds)
    for command in commands:
        print(f"\n$ {' '.join(command)}", flush=True)
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | {"L2RFAST_CUDA": "1"}, timeout=max(end - time.monotonic(), 0)
            )
        except subprocess.TimeoutExpired:
            return f"stopped for lack of time: {GO_ON}"
        if done.returncode == UNFINISHED and name == "bench":
            return f"not finished: {GO_ON}"
        if done.returncode != 0:
            return f"FAILED: {Path(command[0]).name} ended with {done.returncode}"
    DONE.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return f"done in {time.monotonic() - start:.0f} s"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; can be given several times")
    parser.add_argument("--again", action="store_true", help="also what was done before")
    parser.add_argument("--minutes", type=float, default=8.8, help="for all parts (default: 8.8)")
    arguments = parser.parse_args(argv)
    end = time.monotonic() + 60 * arguments.minutes
    ends = {name: run(name, arguments.again, end) for name in PARTS if name in (arguments.only or PARTS)}
    print("\n" + "\n".join(f"{name}: {end}" for name, end in ends.items()))
    return 0 if all(end.startswith(("done", "skipped")) for end in ends.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
