"""setup.py as a module; and ``python -m bench.build``, which builds the library of the CUDA kernels for one card alone.

That needs nvcc and PyTorch's headers, but no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def build_script() -> ModuleType:
    """setup.py, which knows how to compile."""
    spec = importlib.util.spec_from_file_location("l2rfast_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="90", help="compute capability of the card, without a dot (default: 90)")
    parser.add_argument("--out", type=Path, required=True, help="the library")
    parser.add_argument("--only", help="an operator, whose kernels alone are built")
    arguments = parser.parse_args(argv)
    options = [f"-gencode=arch=compute_{arguments.target},code=sm_{arguments.target}", "--threads=0"]
    command = build_script().cuda_command(arguments.out, options)
    if arguments.only:
        command = [part for part in command if not part.endswith(".cu") or f"/{arguments.only}/" in part]
    try:
        return subprocess.run(command, cwd=ROOT).returncode
    except FileNotFoundError:
        parser.exit(1, f"Error: there is no {command[0]}: expected nvcc on $PATH, or in bin of $CUDA_HOME\n")


if __name__ == "__main__":
    sys.exit(main())
