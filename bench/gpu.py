"""``python -m bench.gpu``: all that a machine with a GPU, nvcc and PyTorch is needed for, in one command, offline.

In parts, of which each that is done stays done when the command is given again, and one that fails leaves the others
alone; `PARTS` says what each does. ``--rehearse`` runs every part as far as that goes without a GPU, so that nothing
but the GPU is new to it, and says what only a GPU would do.

What is left in the folder of the results: ``summary.md``, how every part ended and its first error; ``failures.md``,
the first failure of every operation; ``tests.xml``; ``log.txt``, the end of what each part printed; the report, and the
shapes of launches.

Nothing is downloaded. Of Python packages it needs PyTorch, NumPy and pytest, and what ``--wheels`` fetches into
build/gpu/wheels on a machine with a network, which then travels with the sources; a peer that is absent is named as
skipped.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from . import UNFINISHED

ROOT = Path(__file__).parent.parent
DONE = ROOT / "build" / "gpu"
WHEELS = DONE / "wheels"
TUNED = ROOT / "kernels" / "common" / "triton_tuned.json"
# Of the benchmark, the tests and reading images, what a machine for PyTorch has not; what they ask for it has.
CARRIED = ("nibabel", "isal", "psutil", "pytest-benchmark", "py-cpuinfo", "pytest-xdist", "execnet")
GO_ON = "give the command again to go on"
PYTHON = sys.executable
IMPORT = "import l2rfast; info = l2rfast.info(); print(info)"
# Where CUDA kernels cannot be built the package installs all the same, and their tests are skipped.
FOUND = "found = info.chosen.get('cuda'); assert found and found['warp'] == 'cuda', 'no CUDA kernels, or no GPU'"
# What has a backend among its parameters.
TESTS = ["tests/test_operators.py", "tests/test_local_ncc.py", "tests/test_discrete_layers.py"]
TESTS += ["tests/test_discrete_displacement.py", "tests/test_warp.py", "tests/test_warp_many.py"]
TESTS += ["tests/test_grid_sample.py", "tests/test_fields.py"]
OF_OPERATIONS = ("test_operators", "test_triton")  # whose parameters begin with one
PIP = [PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
# Another PyTorch than the tests' own may warn of what theirs does not.
PYTEST = [PYTHON, "-m", "pytest", "-W", "default", "-p", "no:cacheprovider", "-p", "no:benchmark", "-q"]
SANITIZED = ["tests/test_operators.py", "-k", "test_values_and_gradients and cuda and float32"]
# Cases in a rehearsal: one of each kind that has a kernel.
REHEARSED = ("warp", "warp-gradient", "integrate-velocity", "affine-warp", "grid-sample", "local-ncc", "warp-local-ncc")
REHEARSED += ("cost-volume", "coupled-convex", "lattice-correlation", "min-convolution", "soft-argmin")
REHEARSED += ("discrete-displacement", "mutual-information", "energies", "voxelmorph-step")
KEPT = 100_000  # characters of what a part printed
MINUTES = 8.8  # for all parts on a GPU, where a command may take ten
# In a rehearsal, where two cores, which others may keep busy, do the work of sixteen: for all parts, and for each.
REHEARSAL_MINUTES, PART_MINUTES = 40.0, 15.0
ERROR = re.compile(r"\w*(?:Error|Exception)\b.*|.*\b(?:error|ERROR|fatal|FAILED|Segmentation fault)\b.*")


@dataclass(frozen=True)
class Part:
    """One of the things to do.

    Attributes:
        commands: with a GPU.
        seconds: that they may take there.
        rehearsed: commands without one.
        only_there: what these leave out.
        smallest: in place of those, where the rehearsal is itself rehearsed.
    """

    commands: list[list[str]]
    seconds: int
    rehearsed: list[list[str]]
    only_there: str
    smallest: list[list[str]] | None = None


def parts(out: Path) -> dict[str, Part]:
    """In order; what they write goes to a folder."""
    junit = [f"--junitxml={out / 'tests.xml'}", "-o", "junit_logging=no"]
    # Neighbours in a file, which share what they are compared with, mostly come to one worker.
    workers = ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"] if find_spec("xdist") else []
    wheels = [str(wheel) for wheel in sorted(WHEELS.glob("*.whl"))]
    library = str(out / "_cuda.so")
    tune = [PYTHON, "-m", "bench.tune"]
    bench = [PYTHON, "-m", "bench"]
    values = "test_values_and_gradients"
    interpreted = ["tests/test_triton.py", *junit]
    on_host = [*PYTEST, "tests/test_cuda.py"]
    tiny = [*bench, "--size=tiny", "--rounds=1", f"--out={out}"]
    tuned = [*tune, "--size=tiny", "--device=cpu", "--shapes=2", "--rounds=1", f"--out={out / TUNED.name}"]
    return {
        "packages": Part(
            [[*PIP, *wheels]] if wheels else [],
            60,
            [[*PIP, *wheels]] if wheels else [],
            "has another PyTorch",
        ),
        "build": Part(
            [[*PIP, "--no-build-isolation", "-e", "."]],
            150,
            [[PYTHON, "-m", "bench.build", "--target=90", f"--out={library}"]],
            "loads the library of the CUDA kernels",
            [[PYTHON, "-m", "bench.build", "--target=90", f"--out={library}", "--only=sinc"]],
        ),
        "import": Part(
            [[PYTHON, "-c", f"{IMPORT}; {FOUND}"]],
            60,
            [[PYTHON, "-c", IMPORT]],
            "finds the CUDA backend",
        ),
        "test": Part(
            [[*PYTEST, *workers, *TESTS, "-k", "cuda or triton", *junit]],
            150,
            [
                [*PYTEST, "--collect-only", *TESTS],
                [*PYTEST, *workers, *interpreted, "-k", f"{values} and float32"],
                [*on_host, "-k", f"{values} and float32"],
            ],
            "launches kernels: atomics, races, memory that is not ours, and all other tests",
            [[*PYTEST, *interpreted, "-k", f"{values} and soft_argmin and float32"]],
        ),
        "sanitize": Part(
            [
                ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", *PYTEST, *SANITIZED]
                for tool in ("memcheck", "racecheck")
            ],
            90,
            [[*PYTEST, "--collect-only", "tests/test_operators.py", "-k", values]],
            "runs compute-sanitizer",
        ),
        "tune": Part(
            [[*tune, "--minutes=1"]],
            100,
            [[*tuned, "--minutes=3"]],
            "has times that mean something, and tunes all: here as many operators as three minutes allow",
            [[*tuned, "--only=warp"]],
        ),
        "bench": Part(
            [[*bench, "--device=cuda", "--rounds=5", "--resume", "--minutes=2", f"--out={out}"]],
            180,
            [[*tiny, *(f"--only={family}" for family in REHEARSED)]],
            "measures the GPU, and beside its peers there",
            [[*tiny, "--only=soft-argmin"]],
        ),
        "counters": Part(
            [["ncu", "--version"], [PYTHON, "-m", "bench.counters", f"--out={out}"]],
            90,
            [[PYTHON, "-m", "bench.counters", "--dry", "--size=tiny", "--device=cpu", f"--out={out}"]],
            "runs ncu over the program that here runs without it: bandwidth, float64 pipe, what warps wait for",
        ),
        "jobs": Part(
            [[PYTHON, "-m", "bench.jobs", "--device=cuda", f"--out={out / 'jobs.json'}"]],
            60,
            [[PYTHON, "-m", "bench.jobs", "--size=tiny", "--rounds=1", f"--out={out / 'jobs.json'}"]],
            "runs whole registrations and a step of training on the GPU",
        ),
    }


@dataclass
class Ended:
    """How a part did."""

    how: str
    seconds: float = 0.0
    printed: str = ""

    @property
    def well(self) -> bool:
        return self.how.startswith(("done", "skipped"))

    @property
    def error(self) -> str:
        """The first line that looks like one."""
        found = ERROR.search(self.printed)
        return "" if self.well or found is None else " ".join(found[0].split())[:300]


@dataclass
class Run:
    """All parts, until some time at the latest.

    Attributes:
        out: folder of the results.
        end: of `time.monotonic`.
        again: also what was done before.
        rehearse, smallest: what there is no GPU for is left out; see `Part`.
    """

    out: Path
    end: float
    again: bool = False
    rehearse: bool = False
    smallest: bool = False
    ended: dict[str, Ended] = field(default_factory=dict)

    def part(self, name: str, part: Part) -> None:
        """Do one, and write down how it ended."""
        self.ended[name] = self._ended(name, part)
        ended = self.ended[name]
        print(f"{name}: {ended.how}{f': {ended.error}' if ended.error else ''}", flush=True)
        with (self.out / "log.txt").open("a") as log:
            log.write(f"=== {name}: {ended.how}\n{ended.printed[-KEPT:]}\n")

    def _ended(self, name: str, part: Part) -> Ended:
        kind = "done" if not self.rehearse else "smallest" if self.smallest else "rehearsed"
        marker = self.out / f"{name}.{kind}"
        if marker.exists() and not self.again:
            return Ended("done before")
        commands = part.commands
        if self.rehearse:
            commands = part.smallest if self.smallest and part.smallest else part.rehearsed
        missing = [command[0] for command in commands if shutil.which(command[0]) is None]
        if missing:
            return Ended(f"skipped: there is no {missing[0]}")
        start = time.monotonic()
        limit = 60 * PART_MINUTES if self.rehearse else part.seconds
        end, printed = min(self.end, start + limit), ""
        for command in commands:
            code, text = _called(command, max(end - time.monotonic(), 0), self.rehearse)
            printed += f"$ {' '.join(command)}\n{text}"
            seconds = time.monotonic() - start
            if code is None or (code == UNFINISHED and name == "bench"):
                return Ended(f"stopped for lack of time: {GO_ON}", seconds, printed)
            if code != 0:
                return Ended(f"FAILED: {Path(command[0]).name} ended with {code}", seconds, printed)
        marker.touch()
        seconds = time.monotonic() - start
        return Ended(f"done in {seconds:.0f} s", seconds, printed)

    def summary(self, chosen: dict[str, Part]) -> str:
        """How all went, as a page."""
        kind = "Rehearsed without a GPU" if self.rehearse else "On a GPU"
        rows = [f"# {kind}", "", "| part | how it ended | first error |", "| --- | --- | --- |"]
        rows += [f"| {name} | {ended.how} | {ended.error.replace('|', '/')} |" for name, ended in self.ended.items()]
        if self.rehearse:
            rows += ["", "What only a GPU does:", ""] + [
                f"- {name}: {part.only_there}" for name, part in chosen.items()
            ]
        return "\n".join(rows) + "\n"


def _called(command: list[str], seconds: float, rehearse: bool) -> tuple[int | None, str]:
    """Its exit status, None where it took longer, and what it printed. With it ends all that it started."""
    own = {"L2RFAST_CUDA": "1"}
    if rehearse:  # with one instruction set, as a GPU has none
        own = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        return process.returncode, printed
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    except KeyboardInterrupt:  # which the command, in a session of its own, does not see
        os.killpg(process.pid, signal.SIGKILL)
        raise


def failures(junit: Path) -> str:
    """Of every operation, or of another test's own name, how many cases failed and what the first says."""
    found: dict[str, list[str]] = {}
    passed: dict[str, int] = {}
    try:
        cases = ET.parse(junit).getroot().iter("testcase")
    except ET.ParseError as error:
        return f"{junit.name} cannot be read, as of a run that was cut off: {error}.\n"
    for case in cases:
        name, _, parameters = case.get("name", "").partition("[")
        of = (
            parameters.rstrip("]").partition("-")[0]
            if parameters and any(file in case.get("classname", "") for file in OF_OPERATIONS)
            else name
        )
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            found.setdefault(of, []).append(" ".join((wrong[0].get("message") or "no message").split())[:300])
        else:
            passed[of] = passed.get(of, 0) + 1
    rows = ["| operation | failed | passed | the first says |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {of} | {len(told)} | {passed.get(of, 0)} | {told[0].replace('|', '/')} |" for of, told in found.items()
    ]
    return "\n".join(rows if found else [f"All of {sum(passed.values())} passed."]) + "\n"


def fetch() -> int:
    """Wheels for Python 3.12 on Linux, into the folder that travels."""
    platform = ["--python-version=3.12", "--only-binary=:all:", "--platform=manylinux_2_28_x86_64"]
    return subprocess.run(
        [PYTHON, "-m", "pip", "download", "-q", "--no-deps", *platform, "-d", str(WHEELS), *CARRIED]
    ).returncode


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=parts(DONE), help="a part; can be given several times")
    parser.add_argument("--again", action="store_true", help="also what was done before")
    usual = f"(default: {MINUTES}, of a rehearsal {REHEARSAL_MINUTES:g})"
    parser.add_argument("--minutes", type=float, help=f"for all parts {usual}")
    parser.add_argument("--out", type=Path, help="folder of the results (default: build/gpu, or rehearsal in it)")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, as far as that goes")
    parser.add_argument("--smallest", action="store_true", help="with --rehearse: a little of every part")
    parser.add_argument("--wheels", action="store_true", help="only fetch what is to be carried, with a network")
    arguments = parser.parse_args(argv)
    if arguments.wheels:
        return fetch()
    if arguments.smallest and not arguments.rehearse:
        parser.error("argument --smallest: expected together with --rehearse")
    out = (arguments.out or (DONE / "rehearsal" if arguments.rehearse else DONE)).absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "log.txt").open("a").close()
    except OSError as error:
        parser.error(f"argument --out: expected a folder that can be written, got {out} ({error.strerror})")
    usual_minutes = REHEARSAL_MINUTES if arguments.rehearse else MINUTES
    minutes = usual_minutes if arguments.minutes is None else arguments.minutes
    end = time.monotonic() + 60 * minutes
    run = Run(out, end, arguments.again, arguments.rehearse, arguments.smallest)
    chosen = {name: part for name, part in parts(out).items() if name in (arguments.only or parts(out))}
    for name, part in chosen.items():
        run.part(name, part)
        (out / "summary.md").write_text(run.summary(chosen))  # also of a run that is cut off
        if name == "tune" and not arguments.rehearse:
            shutil.copy(TUNED, out)
        if name == "test" and (out / "tests.xml").exists():
            (out / "failures.md").write_text(failures(out / "tests.xml"))
    return 0 if all(ended.well for ended in run.ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
