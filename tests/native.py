"""C++ that only tests need, built when they start."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from bench.build import build_script

ROOT = Path(__file__).parent.parent
CUDA_SOURCES = sorted(ROOT.glob("kernels/*/cuda.cu"))


@cache
def _headers() -> tuple[list[str], list[str]]:
    """Where PyTorch's headers and libraries are, as options."""
    extension = build_script().extensions()[0]
    return [f"-isystem{path}" for path in extension.include_dirs[1:]], [f"-L{path}" for path in extension.library_dirs]


def _load(output: Path, sources: Iterable[Path], *options: str) -> None:
    headers, libraries = _headers()
    command = ["g++", "-x", "c++", "-shared", "-fPIC", "-fvisibility=hidden", "-std=c++20", "-O1"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", f"-I{ROOT / 'kernels'}", *headers]
    subprocess.run([*command, *map(str, sources), *libraries, *options, "-o", str(output)], check=True)
    torch.ops.load_library(output)  # type: ignore[no-untyped-call]


def load_cuda_on_host(folder: Path) -> None:
    """The CUDA kernels, from the operator's arguments on all of them but the launch, for CPU tensors: operators of
    ``torch.ops.l2rfast_cuda``, built in a folder.
    """
    _load(folder / "host.so", CUDA_SOURCES, "-ltorch_cpu", "-DTORCH_TARGET_VERSION=0x020b000000000000")


def poison_memory(folder: Path) -> None:
    """From here on CPU tensors of this process hold NaN, or -1, until they are written; see poison.cpp."""
    _load(folder / "poison.so", [ROOT / "tests" / "poison.cpp"], "-lc10")
