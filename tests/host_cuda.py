"""The CUDA kernels as C++, run on the host: all of them but the launch, from the operator's arguments on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from bench.build import build_script

ROOT = Path(__file__).parent.parent
SOURCES = sorted(ROOT.glob("kernels/*/cuda.cu"))


def load(folder: Path) -> None:
    """Builds them in a folder and registers them for CPU tensors, as operators of ``torch.ops.l2rfast_cuda``."""
    output = folder / "host.so"
    extension = build_script().extensions()[0]
    command = ["g++", "-x", "c++", "-shared", "-fPIC", "-fvisibility=hidden", "-std=c++20", "-O1"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
    command += [f"-I{ROOT / 'kernels'}", *(f"-isystem{path}" for path in extension.include_dirs[1:])]
    command += [*map(str, SOURCES), *(f"-L{path}" for path in extension.library_dirs), "-ltorch_cpu", "-o", str(output)]
    subprocess.run(command, check=True)
    torch.ops.load_library(output)  # type: ignore[no-untyped-call]
