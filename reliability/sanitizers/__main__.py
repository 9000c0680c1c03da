"""``python -m reliability.sanitizers address|thread|valgrind``: the C++ kernels under what watches their memory.

``address`` is AddressSanitizer and UndefinedBehaviorSanitizer, ``thread`` ThreadSanitizer; both have a library of their
own, run the tests of the operators and then random calls. ``valgrind`` has memcheck watch the installed library through
the samples of the tests: it alone sees memory that is read before it is written.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from bench.build import ROOT

from ..record import any_number, recorded, some
from . import library

# Those of operators: what is timed, measured in memory or read from files is not among them.
TESTS = ["operators", "contexts", "diffusion", "discrete_layers", "discrete_displacement", "fields"]
TESTS += ["folds", "grid_sample", "histogram", "inverse", "linear", "local_ncc", "losses", "metrics", "nn", "outside"]
TESTS += ["precision", "reorientation", "sinc", "spline", "threads", "votes", "warp", "warp_many"]
ELSEWHERE = "not triton and not avx2"  # not this library
CALLS = {"address": 10_000, "thread": 2_000}
HALVES = ("tests", "calls")  # of a run, each with a report
COMMAND = (sys.executable, "-P", "-m", "reliability.sanitizers.calls")
# Python itself leaks at its end; the tests ask for more memory than there is.
_ADDRESS = "detect_leaks=0:halt_on_error=0:allocator_may_return_null=1"
_REPORT = re.compile(r"^(==\d+==ERROR|WARNING: ThreadSanitizer|\S+: runtime error)", re.MULTILINE)


def environment(sanitizer: str, logs: Path) -> dict[str, str]:
    """That of a process which has the watched library and writes what is found to files ``logs*``."""
    options = f"log_path={logs}"
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (library.package(sanitizer), ROOT, ROOT / "tests"))),
        "ATEN_CPU_CAPABILITY": library.INSTRUCTION_SET,
        "OMP_NUM_THREADS": "1" if sanitizer == "thread" else "2",
        "LD_PRELOAD": library.runtime(sanitizer),
        "ASAN_OPTIONS": f"{_ADDRESS}:{options}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{options}",
        # Only what was compiled to be watched is: Python and PyTorch have locks of their own.
        "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1:halt_on_error=0:exitcode=0:{options}",
    }


def _watched(command: Sequence[str], run: Mapping[str, str], logs: Path, *, check: bool) -> None:
    """Run a command in that environment. UndefinedBehaviorSanitizer writes beside another one to the standard error
    alone, whatever it is told.

    Raises:
        subprocess.CalledProcessError: it has ended in a crash, or in an error where that is asked for.
    """
    with logs.with_name(f"{logs.name}.error").open("a") as error:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | dict(run), stderr=error, check=False)
    if done.returncode < 0 or (check and done.returncode):
        print(logs.with_name(f"{logs.name}.error").read_text()[-5000:], file=sys.stderr)
        done.check_returncode()


def reports(logs: Path) -> list[str]:
    """What sanitizers have written, each report's first line."""
    found = []
    for file in sorted(logs.parent.glob(f"{logs.name}*")):
        text = file.read_text(errors="replace")
        found += [text[match.start() :].partition("\n")[0] for match in _REPORT.finditer(text)]
    return found


def _tests(run: Mapping[str, str], logs: Path) -> dict[str, int]:
    """How many passed and failed."""
    files = [f"tests/test_{name}.py" for name in TESTS]
    paths, out = f"pythonpath={run['PYTHONPATH'].partition(os.pathsep)[0]} .", logs.with_name("tests.xml")
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:benchmark", "-k", ELSEWHERE, "-o", paths]
    _watched([*command, "--capture=sys", f"--junitxml={out}", *files], run, logs, check=False)
    suite = next(ElementTree.parse(out).iter("testsuite")).attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    return {"tests passed": int(suite["tests"]) - failed - int(suite["skipped"]), "tests failed": failed}


def check_trapped(sanitizer: str) -> None:
    """See that a sanitizer tells of faults that are in its library on purpose.

    Raises:
        subprocess.CalledProcessError: the library cannot be built.
        RuntimeError: it does not.
    """
    with TemporaryDirectory() as folder:
        logs = Path(folder, "trapped")
        _watched([*COMMAND, "trap"], environment(sanitizer, logs), logs, check=True)
        if len(reports(logs)) < library.TRAPS[sanitizer]:
            raise RuntimeError(f"{sanitizer}: expected to be told of the faults of trap.cpp, got {reports(logs)}")


def sanitized(sanitizer: str, half: str, calls: int, seed: int) -> dict[str, int]:
    """The counts of the tests of operators, or of random calls, under a sanitizer; its reports are printed.

    Raises:
        subprocess.CalledProcessError: the library cannot be built, or the calls have ended in a crash.
        RuntimeError: see `check_trapped`.
    """
    check_trapped(sanitizer)
    with TemporaryDirectory() as folder:
        logs = Path(folder, "report")
        run = environment(sanitizer, logs)
        if half == "tests":
            counts = _tests(run, logs)
        else:
            _watched([*COMMAND, str(calls), str(seed)], run, logs, check=True)
            counts = {"random calls": calls, "seed": seed}
        found = reports(logs)
        for file in sorted(logs.parent.glob(f"{logs.name}*")):
            print(file.read_text(errors="replace"))
    return counts | {"reports": len(found)}


def under_valgrind() -> dict[str, int]:
    """Samples of the tests, forward and backward, and how many of memcheck's errors lie in the library.

    Raises:
        FileNotFoundError: there is no valgrind.
        subprocess.CalledProcessError: the calls have ended in a crash.
    """
    if shutil.which("valgrind") is None:
        raise FileNotFoundError("there is no valgrind")
    with TemporaryDirectory() as folder:
        file = Path(folder, "errors.xml")
        command = ["valgrind", "--tool=memcheck", "--quiet", "--xml=yes", f"--xml-file={file}", "--num-callers=30"]
        command += [sys.executable, "-m", "reliability.sanitizers.calls", "samples"]
        run = {"PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": library.INSTRUCTION_SET}
        run["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        told = subprocess.run(command, cwd=ROOT, env=os.environ | run, check=True, stdout=subprocess.PIPE, text=True)
        errors = [error for error in ElementTree.parse(file).iter("error") if _ours(error)]
    for error in errors:
        print(ElementTree.tostring(error, encoding="unicode"))
    return {"calls of samples": int(told.stdout.split()[-1]), "reports": len(errors)}


def _ours(error: ElementTree.Element) -> bool:
    """Whether a memcheck error is of the kernels: the innermost function but the C library's is theirs."""
    frames = [frame.findtext("obj", "") for frame in error.iter("frame")]
    return any("_cpp_" in frame for frame in frames[:3])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.sanitizers", description=__doc__.partition("\n")[0])
    parser.add_argument("tool", choices=[*library.OPTIONS, "valgrind"])
    parser.add_argument("--calls", type=some, help="random calls (default: 10,000 under address, 2,000 under thread)")
    parser.add_argument("--seed", type=any_number, default=0, help="of the random calls (default: 0)")
    parser.add_argument("--only", choices=HALVES, help="the tests of operators alone, or the random calls")
    arguments = parser.parse_args(argv)
    tool, found = arguments.tool, []
    if tool == "valgrind":
        with recorded("sanitizers", tool) as counts:
            counts.update(under_valgrind())
        found.append(counts)
    else:
        calls = arguments.calls or CALLS[tool]
        for half in [arguments.only] if arguments.only else HALVES:
            full = half == "tests" or calls >= CALLS[tool]
            with recorded("sanitizers", f"{tool}-{half}", full=full) as counts:
                counts.update(sanitized(tool, half, calls, arguments.seed))
            print(counts, flush=True)
            found.append(counts)
    return int(any(counts["reports"] or counts.get("tests failed") for counts in found))


if __name__ == "__main__":
    sys.exit(main())
