"""Loads the compiled kernels: the library for the best instruction set of this processor, and that for CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from .kernels.common.precision import in_pairs

TRIED = SpecifierSet(">=2.11,<2.16")  # versions of PyTorch that the tests have passed with

# From the most to the least capable, by PyTorch's own names (torch.backends.cpu.get_cpu_capability()).
_INSTRUCTION_SETS = ("avx512", "avx2", "default")

HOW_TO_BUILD = "install g++ 12 or newer, then run in its source folder: pip install --force-reinstall --no-deps ."


class UntriedVersionWarning(UserWarning):
    """A PyTorch that is newer than the tests have seen: it may do, and nothing is known of it."""


def check_version(version: str) -> None:
    """Warn of a PyTorch that was not tried; earlier ones lack the ABI of the kernels, and pip refuses them."""
    # Of a release to come, and of a local build, what counts is which release that is.
    if Version(version).base_version not in TRIED:
        warnings.warn(
            f"l2rfast was tried with PyTorch {TRIED}, and this is {version}; results may differ",
            UntriedVersionWarning,
            stacklevel=2,
        )


def load() -> str | None:
    """Load the C++ kernels into ``torch.ops.l2rfast_cpp`` and return the instruction set they were built for.

    Returns None where the package was installed without them. The environment variable
    ``ATEN_CPU_CAPABILITY``, which limits PyTorch's own kernels, limits these as well.
    """
    capability = torch.backends.cpu.get_cpu_capability().lower()
    start = _INSTRUCTION_SETS.index(capability) if capability in _INSTRUCTION_SETS else -1
    for name in _INSTRUCTION_SETS[start:]:
        library = Path(__file__).with_name(f"_cpp_{name}.so")
        if library.exists():
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
            return name
    return None


def load_cuda() -> bool:
    """Load the CUDA kernels into ``torch.ops.l2rfast_cuda``, where they were built and there is a GPU for them."""
    library = Path(__file__).with_name("_cuda.so")
    if not library.exists() or not torch.cuda.is_available():
        return False
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    return True


def _in_pairs(device: int) -> bool:
    return in_pairs(torch.device("cpu") if device < 0 else torch.device("cuda", device))


# The compiled kernels call these to know: PyTorch's stable ABI has no functions that tell.
torch.library.define("l2rfast_cuda::deterministic", "() -> bool")
torch.library.impl(
    "l2rfast_cuda::deterministic", "CompositeExplicitAutograd", torch.are_deterministic_algorithms_enabled
)
torch.library.define("l2rfast_cuda::in_pairs", "(int device) -> bool")
torch.library.impl("l2rfast_cuda::in_pairs", "CompositeExplicitAutograd", _in_pairs)

torch.library.define("l2rfast_cpp::keep_memory", "(bool more) -> ()")

check_version(torch.__version__)
INSTRUCTION_SET = load()
load_cuda()


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, large results of the C++ kernels take the memory of earlier ones of their size that are gone.

    New memory costs more than most of these kernels: see ``kernels/common/memory.cpp``. What is kept is given back to
    the system when the last such block, of any thread, ends.
    """
    if INSTRUCTION_SET is None:
        yield
        return
    torch.ops.l2rfast_cpp.keep_memory(True)
    try:
        yield
    finally:
        torch.ops.l2rfast_cpp.keep_memory(False)
