"""The Triton kernels and CUDA files compiled ahead of time for several GPUs, none of which need be there.

All of it takes minutes: what is recorded is taken where sources and compilers are those of the record, and some kernels
are compiled every time, to see that the record is true.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter

import pytest

pytest.importorskip("triton")

from bench import aot
from bench.aot import Built, Record
from l2rfast.kernels.common.triton_launch import Shape, shaped
from l2rfast.kernels.symmetric_filter import triton as symmetric
from l2rfast.kernels.warp import triton as warping

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted"),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc"),
]


# What a kernel takes of a GPU depends on the compiler; others than the record's need only compile all.
with_its_compilers = pytest.mark.skipif(
    shutil.which("nvcc") is not None and Record.read().compilers != aot.versions(),
    reason="compilers other than those of the record",
)


@pytest.fixture(scope="module")
def record() -> Record:
    recorded = Record.read()
    return recorded if recorded.is_of_today else Record.made()


def spilling(built: list[Built]) -> list[Built]:
    return [kernel for kernel in built if kernel.spills]


def without_registers(built: Built) -> tuple[str, str, int, int]:
    """AMD's compiler takes one more or less from run to run."""
    return built.kernel, built.target, built.shared, built.spills


@pytest.mark.parametrize("target", aot.TARGETS)
def test_every_triton_kernel_compiles(target: str, record: Record) -> None:
    defined = {name for module in aot.MODULES for name in vars(module) if re.fullmatch(r"[a-z]\w*_kernel", name)}
    assert {kernel.kernel for kernel in record.of_triton if kernel.target == target} == defined


@with_its_compilers
def test_no_triton_kernel_spills(record: Record) -> None:
    assert not spilling(record.of_triton)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_spills_are_seen(target: str) -> None:
    image, disp = aot.meta(1, 2, 30, 30, 30), aot.meta(1, 3, 30, 30, 30)
    with aot.compiling(target) as built, shaped(Shape(block=1024, warps=1)):
        warping.warp_backward(image, image, disp, "linear", "zeros", True, True)
    assert spilling(built)


def test_every_cuda_kernel_compiles_without_spills(record: Record) -> None:
    assert {kernel.target for kernel in record.of_cuda} == set(aot.OF_NVIDIA)
    assert not spilling(record.of_cuda)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_what_is_compiled_now_is_what_is_recorded(target: str, record: Record) -> None:
    with aot.compiling(target) as built:
        symmetric.symmetric_filter(aot.meta(1, 2, 160, 192, 224), [0.5, 0.25])
    found = Counter(map(without_registers, record.of_triton))
    assert built
    assert Counter(map(without_registers, built)) <= found


@with_its_compilers
def test_the_record_is_of_these_sources() -> None:
    recorded = Record.read()
    assert recorded.digest == aot.digest(), "run python -m bench.aot"
    assert aot.TABLE.read_text() == recorded.table(), "run python -m bench.aot"
