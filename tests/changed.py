"""Runs the tests that touch what changed since a commit: ``python tests/changed.py [COMMIT]``, which is ``make check``.

A test file is touched by itself, by the files of tests and benchmarks that it imports, and by the modules and kernels
of the package that it names: nearly every test imports the whole package, so what is imported says too little.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ("l2rfast", "kernels", "methods")
# Of minutes, whatever is in them: only where they changed themselves.
LONG = {"test_aot", "test_backend", "test_bench", "test_cuda", "test_examples", "test_libraries", "test_operators"}
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
    generic = {"__init__", "__main__", "cpu", "cuda", "triton", "reference", "register", "training", "options"}
    return {path.stem.lstrip("_"), path.parent.name} - generic - {*PACKAGE, "common"}


def touched(files: set[Path]) -> list[Path]:
    """The test files to run."""
    words = {word for path in files for word in names(path)}
    helpers = {path.stem for path in files if path.suffix == ".py" and path.parts[0] in ("tests", "bench")}
    found = []
    for test in sorted((ROOT / "tests").glob("test_*.py")):
        text, own = test.read_text(), test.relative_to(ROOT) in files
        named = any(re.search(rf"\b{re.escape(word)}\b", text) for word in words)
        imported = any(re.search(rf"^(from|import) .*\b{helper}\b", text, re.MULTILINE) for helper in helpers)
        if own or ((named or imported) and test.stem not in LONG):
            found.append(test.relative_to(ROOT))
    return found


def main(commit: str) -> int:
    files = changed(commit)
    pytest = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", "-p", "no:benchmark"]
    runs = [[str(test) for test in touched(files)]]
    operations = sorted({path.parts[1] for path in files if path.parts[0] == "kernels"} - {"common", "__init__.py"})
    if operations:
        runs.append(["tests/test_operators.py", "-k", " or ".join(operations)])
    # The real scans take minutes.
    environment = {name: value for name, value in os.environ.items() if name != "L2RFAST_DATA"}
    codes = [subprocess.run([*pytest, *run], cwd=ROOT, env=environment, check=False).returncode for run in runs if run]
    if not codes:
        print("no test touches what changed")
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "HEAD"))
