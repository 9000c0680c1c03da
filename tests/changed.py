"""Runs the tests that touch what changed since a commit: ``python tests/changed.py [COMMIT]``, which is ``make check``.

A test file is touched by itself, by the files of tests and benchmarks that it imports, by the modules and kernels of
the package that it names, and by the functions that have its own name: nearly every test imports the whole package, so
what is imported says too little. The CUDA kernels, which take most of a minute to build for the CPU, run where they
changed.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ("l2rfast", "kernels", "methods")
HELPERS = ("tests", "bench", "reliability")
# Of modules, but of much else in a test as well.
GENERIC = {"__init__", "__main__", "cpu", "cuda", "triton", "reference", "register", "training", "options", "common"}
GENERIC |= {"data", "images", "labels", "method", "torch", "weights", *PACKAGE}
# Of minutes, whatever is in them: only where they changed themselves.
LONG = {"test_aot", "test_bench", "test_cuda", "test_examples", "test_libraries", "test_operators"}
LONG |= {"test_packaging", "test_triton"}


def changed(commit: str) -> set[Path]:
    """Files that differ from that commit, those that git does not know yet among them."""
    commands = ["git", "diff", "--name-only", commit], ["git", "ls-files", "--others", "--exclude-standard"]
    lines = [subprocess.run(c, cwd=ROOT, check=True, text=True, capture_output=True).stdout for c in commands]
    return {Path(line) for line in "".join(lines).splitlines()}


def names(path: Path) -> set[str]:
    """By which words a test names a file of the package: its module, and the folder where that says more."""
    if path.suffix not in (".py", ".cpp", ".cu", ".h", ".cuh") or path.parts[0] not in PACKAGE:
        return set()
    words = {path.stem.lstrip("_"), path.parent.name}
    return words - GENERIC or words - {"__init__", "options", "common", *PACKAGE}


def functions(path: Path) -> set[str]:
    """The public ones of a module, or of the definition of a kernel."""
    module = ROOT / (path.parent / "reference.py" if path.parts[0] == "kernels" else path)
    if module.suffix != ".py" or path.parts[0] not in PACKAGE or not module.exists():
        return set()
    defined = [node.name for node in ast.parse(module.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {name for name in defined if not name.startswith("_")}


def touched(files: set[Path]) -> list[Path]:
    """The test files to run."""
    words = {word for path in files for word in names(path)}
    own_names = {f"test_{name}" for path in files for name in functions(path)}
    helpers = {
        path.stem for path in files if path.suffix == ".py" and path.parts[0] in ("tests", "bench", "reliability")
    }
    found = []
    for test in sorted((ROOT / "tests").glob("test_*.py")):
        text, own = test.read_text(), test.relative_to(ROOT) in files
        named = test.stem in own_names or any(re.search(rf"\b{re.escape(word)}\b", text) for word in words)
        imported = any(re.search(rf"^(from|import) .*\b{helper}\b", text, re.MULTILINE) for helper in helpers)
        if own or ((named or imported) and test.stem not in LONG):
            found.append(test.relative_to(ROOT))
    return found


def operations(files: set[Path]) -> list[str]:
    """Those whose kernels are among the files."""
    from operators import OPERATIONS

    kernels = {name for path in files if path.parts[0] == "kernels" for name in functions(path)}
    return [operation.name for operation in OPERATIONS if (operation.made_of or operation.name) in kernels]


def main(commit: str) -> int:
    files = changed(commit)
    pytest = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", "-p", "no:benchmark"]
    cuda = any(path.suffix in (".cu", ".cuh", ".h") for path in files)
    runs = [[str(test) for test in touched(files)]]
    if runs[0] and not cuda and Path("tests/test_cuda.py") not in files:
        runs[0] += ["-k", "not cuda"]
    if any(path.parts[0] == "kernels" for path in files):
        chosen = " or ".join(operations(files))
        if chosen:
            runs.append(["tests/test_operators.py", "-k", chosen if cuda else f"({chosen}) and not cuda"])
    # The real scans take minutes.
    environment = {name: value for name, value in os.environ.items() if name != "L2RFAST_DATA"}
    codes = [subprocess.run([*pytest, *run], cwd=ROOT, env=environment, check=False).returncode for run in runs if run]
    if not codes:
        print("no test touches what changed")
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "HEAD"))
