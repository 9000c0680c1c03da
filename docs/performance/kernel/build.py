"""Compiles a source beside this file and loads its operators. In the library setup.py does."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILT = ROOT / "build" / "kernel"


def load(source: str, *options: str) -> None:
    """As C++, whatever it is: without a GPU `cuda.cu` becomes loops on the host. What was built before is kept."""
    command = ["g++", "-x", "c++", "-shared", "-fPIC", "-fvisibility=hidden", "-std=c++20", "-fno-math-errno"]
    command += ["-fno-trapping-math", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-missing-field-initializers"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", *options, f"-I{ROOT / 'kernels'}", f"-I{HERE}"]
    command += [*(f"-isystem{path}" for path in include_paths()), *(f"-L{path}" for path in library_paths())]
    command += [str(HERE / source), "-ltorch_cpu"]
    texts = [
        file.read_text() for file in [HERE / source, HERE / "flow.h", *sorted((ROOT / "kernels/common").glob("*.*h"))]
    ]
    state = hashlib.blake2b(repr([torch.__version__, *command, *texts]).encode(), digest_size=8)
    output = BUILT / f"{Path(source).stem}-{state.hexdigest()}.so"
    if not output.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        part = output.with_suffix(f".{os.getpid()}.part")
        subprocess.run([*command, "-o", str(part)], check=True)
        part.rename(output)
    torch.ops.load_library(output)
