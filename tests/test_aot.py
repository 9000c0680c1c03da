"""The Triton kernels and CUDA files compiled ahead of time for several GPUs, none of which need be there."""

from __future__ import annotations

import os
import re
import shutil
from importlib.metadata import version

import pytest

pytest.importorskip("triton")

from bench import aot
from bench.aot import Built
from l2rfast.kernels.common.triton_launch import Shape, shaped
from l2rfast.kernels.warp import triton as warping

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")


@pytest.fixture(scope="module")
def of_triton() -> dict[str, list[Built]]:
    return {target: aot.triton_kernels(target) for target in aot.TARGETS}


@pytest.fixture(scope="module")
def of_cuda() -> tuple[list[Built], str]:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    return aot.cuda_kernels()


# What a kernel takes of a GPU depends on the compiler; others than the table's need only compile all.
with_the_tables_triton = pytest.mark.skipif(
    f"| triton | {version('triton')} |" not in aot.TABLE.read_text(), reason="another Triton than the table's"
)


def spilling(built: list[Built]) -> list[Built]:
    return [kernel for kernel in built if kernel.spills]


@pytest.mark.parametrize("target", aot.TARGETS)
def test_every_triton_kernel_compiles(target: str, of_triton: dict[str, list[Built]]) -> None:
    defined = {name for module in aot.MODULES for name in vars(module) if re.fullmatch(r"[a-z]\w*_kernel", name)}
    assert {kernel.kernel for kernel in of_triton[target]} == defined


@with_the_tables_triton
@pytest.mark.parametrize("target", aot.TARGETS)
def test_no_triton_kernel_spills(target: str, of_triton: dict[str, list[Built]]) -> None:
    assert not spilling(of_triton[target])


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_spills_are_seen(target: str) -> None:
    image, disp = aot.meta(1, 2, 30, 30, 30), aot.meta(1, 3, 30, 30, 30)
    with aot.compiling(target) as built, shaped(Shape(block=1024, warps=1)):
        warping.warp_backward(image, image, disp, "linear", "zeros", True, True)
    assert spilling(built)


def test_every_cuda_kernel_compiles_without_spills(of_cuda: tuple[list[Built], str]) -> None:
    built, log = of_cuda
    assert "warning" not in log
    assert {kernel.target for kernel in built} == set(aot.OF_NVIDIA)
    assert not spilling(built)


@with_the_tables_triton
def test_the_table_is_that_of_the_kernels(of_triton: dict[str, list[Built]], of_cuda: tuple[list[Built], str]) -> None:
    every = [kernel for target in aot.TARGETS for kernel in of_triton[target]]
    assert aot.TABLE.read_text() == aot.report(every, of_cuda[0], aot.versions()) + "\n", "run python -m bench.aot"
