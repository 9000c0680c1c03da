"""C++ that only tests need, built where nobody has built it yet: it is the same for every process of a run, and run."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from bench.build import build_script

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "tests"
CUDA_SOURCES = sorted(ROOT.glob("kernels/*/cuda.cu"))


@cache
def _headers() -> tuple[list[str], list[str]]:
    """Where PyTorch's headers and libraries are, as options."""
    extension = build_script().extensions()[0]
    return [f"-isystem{path}" for path in extension.include_dirs[1:]], [f"-L{path}" for path in extension.library_dirs]


def _load(name: str, sources: Iterable[Path], *options: str) -> None:
    """Build it, unless it lies in BUILT from the same command, sources and PyTorch, and load it."""
    headers, libraries = _headers()
    command = ["g++", "-x", "c++", "-shared", "-fPIC", "-fvisibility=hidden", "-std=c++20", "-O1"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", f"-I{ROOT / 'kernels'}", *headers]
    command += [*map(str, sources), *libraries, *options]
    read = [*sources, *sorted((ROOT / "kernels").glob("*/*.h")), *sorted((ROOT / "kernels").glob("*/*.cuh"))]
    state = [torch.__version__, *command, *(path.read_text() for path in read)]
    output = BUILT / f"{name}-{hashlib.blake2b(repr(state).encode(), digest_size=8).hexdigest()}.so"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of others, one builds and the rest wait
        if not output.exists():
            part = output.with_suffix(".part")
            subprocess.run([*command, "-o", str(part)], check=True)
            part.rename(output)
    torch.ops.load_library(output)  # type: ignore[no-untyped-call]


def load_cuda_on_host() -> None:
    """The CUDA kernels, from the operator's arguments on all of them but the launch, for CPU tensors: operators of
    ``torch.ops.l2rfast_cuda``.
    """
    _load("cuda", CUDA_SOURCES, "-ltorch_cpu", "-DTORCH_TARGET_VERSION=0x020b000000000000")


def poison_memory() -> None:
    """From here on CPU tensors of this process hold NaN, or -1, until they are written; see poison.cpp."""
    _load("poison", [ROOT / "tests" / "poison.cpp"], "-lc10")


class _Heap(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _names = ("arena", "ordblks", "smblks", "hblks", "mapped", "usmblks", "fsmblks", "used", "free", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def memory_in_use() -> int:
    """Bytes of C's heap, of the main thread, that are not free: to the byte, unlike what the system counts."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Heap
    heap = ask()
    return int(heap.used + heap.mapped)
