"""The Triton kernels compiled ahead of time for several GPUs, none of which need be there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from l2rfast.kernels.affine_warp import triton as affine  # noqa: E402
from l2rfast.kernels.box import triton as box  # noqa: E402
from l2rfast.kernels.common import triton_launch, triton_samplers  # noqa: E402
from l2rfast.kernels.correlation import triton as correlation  # noqa: E402
from l2rfast.kernels.coupled_convex import triton as coupled  # noqa: E402
from l2rfast.kernels.grid_sample import triton as grid  # noqa: E402
from l2rfast.kernels.integrate_velocity import triton as integration  # noqa: E402
from l2rfast.kernels.jacobian import triton as jacobian  # noqa: E402
from l2rfast.kernels.lattice_correlation import triton as lattice  # noqa: E402
from l2rfast.kernels.lncc import triton as lncc  # noqa: E402
from l2rfast.kernels.min_convolution import triton as minima  # noqa: E402
from l2rfast.kernels.soft_argmin import triton as soft  # noqa: E402
from l2rfast.kernels.warp import triton as warping  # noqa: E402

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DISCRETE = (box, correlation, coupled, lattice, minima, soft)


pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")


class NoGpu:
    """What Triton asks a driver when it compiles: which GPU there is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_current_device(self) -> str:
        return self.name

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        return TARGETS[self.name]


def spilled(kernel: Any, log: str) -> int:
    """Bytes (NVIDIA) or registers (AMD) that the kernel spills; `log` is what was printed while it was compiled."""
    if "amdgcn" in kernel.asm:
        counts = re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", kernel.asm["amdgcn"])
    else:
        counts = re.findall(r"(\d+) bytes spill", log)
    assert len(counts) == 2
    return sum(map(int, counts))


class Compiler:
    """Makes every launch compile its kernel, exactly as it would be compiled for that launch, and run nothing.

    Attributes:
        spills: of every kernel compiled, by name.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str) -> None:
        self.spills: list[tuple[str, int]] = []
        self._capfd = capfd
        self._seen: set[int] = set()
        monkeypatch.setattr(driver, "_active", NoGpu(name))
        monkeypatch.setattr(triton.knobs.nvidia, "dump_ptxas_log", True)
        monkeypatch.setattr(JITFunction, "__getitem__", lambda kernel, programs: self._compile(kernel, programs))

    def _compile(self, function: Any, programs: Any) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            kernel = function.run(*args, grid=programs, warmup=True, **kwargs)
            log = self._capfd.readouterr().out
            if id(kernel) not in self._seen:
                self._seen.add(id(kernel))
                self.spills.append((function.__name__, spilled(kernel, log)))

        return run


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def compiler(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, request: Any
) -> Compiler:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernels in (triton_samplers, jacobian, lncc, *DISCRETE):  # what another test compiled has no log any more
        for value in vars(kernels).values():
            if isinstance(value, JITFunction):
                value.device_caches.clear()
    return Compiler(monkeypatch, capfd, request.param)


MEASURE = ([0.0, 0.0, 1e-5, 1.0], False)  # constants of the local NCC, whether it averages


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory, which is all that it takes to compile."""
    return torch.empty(shape, dtype=dtype, device="meta")


def sample_everywhere(size: tuple[int, ...], dtype: torch.dtype) -> None:
    """Every forward operator, on images and fields of that dtype."""
    ndim = len(size)
    image, labels, disp = meta(1, 2, *size, dtype=dtype), meta(1, 1, *size).short(), meta(1, ndim, *size, dtype=dtype)
    warping.warp_many([image, labels], disp, [False, True], "border")
    warping.warp_with_gradient(image, disp, "zeros")
    grid.grid_sample(image, meta(1, *size, ndim, dtype=dtype), "linear", "symmetric", False)
    affine.affine_warp(image, meta(1, ndim, ndim + 1, dtype=dtype), size, "linear", "border")
    integration.compose(disp, disp)
    jacobian.jacobian_determinant(disp)
    lncc.local_ncc(image, image, None, None, [9] * ndim, [], "zeros", *MEASURE, True, False, False)


def go_back_everywhere(size: tuple[int, ...], dtype: torch.dtype) -> None:
    """Every backward operator, on images and fields of that dtype."""
    ndim = len(size)
    image, disp = meta(1, 2, *size, dtype=dtype), meta(1, ndim, *size, dtype=dtype)
    where, matrix = meta(1, *size, ndim, dtype=dtype), meta(1, ndim, ndim + 1, dtype=dtype)
    warping.warp_backward(image, image, disp, "linear", "zeros", True, True)
    warping.warp_backward(image, image, disp, "nearest", "border", True, False)
    warping.warp_double_backward(image, image, disp, disp, "reflection")
    grid.grid_sample_backward(image, image, where, "linear", "symmetric", False, True, True)
    affine.affine_warp_backward(image, image, matrix, "linear", "zeros", True, True)
    jacobian.jacobian_determinant_backward(disp[:, 0], disp)
    mask = meta(1, 1, *size, dtype=torch.bool)
    lncc.local_ncc(image, image, mask, image, [9] * ndim, [], "valid", *MEASURE, False, True, True)


def search_everywhere(size: tuple[int, ...], dtype: torch.dtype) -> None:
    """Every operator of the discrete method and its backward."""
    ndim, real = len(size), torch.float32 if dtype.itemsize == 2 else dtype
    features, small = meta(1, 2, *size, dtype=dtype), meta(1, 2, *[29] * ndim, dtype=dtype)
    search = [11] * ndim
    cost, grad = meta(1, *search, *size, dtype=dtype), meta(1, *search, *size, dtype=dtype)
    for metric in ("ssd", "sad", "dot"):
        correlation.correlation(features, features, [5] * ndim, 1, "border", 0, metric)
        correlation.correlation_backward(grad, features, features, [5] * ndim, 1, "zeros", 0, metric, True, True)
    of_lattice = small, features, [0.0] * 29 * ndim, [0.0] * 11 * ndim, search
    for metric in ("ssd", "dot"):
        lattice.lattice_correlation(*of_lattice, metric)
        lattice.lattice_correlation_backward(
            meta(1, *search, *[29] * ndim, dtype=dtype), *of_lattice, metric, True, True
        )
    weight = meta(dtype=real)
    minima.min_convolution(cost, weight)
    minima.min_convolution_backward(grad, cost, weight)
    minima.pooled_min_convolution_backward(grad, cost)
    steps = [1.0] * ndim
    field, entropy, log_z, _ = soft.soft_argmin(cost, weight, steps, True)
    soft.soft_argmin_backward(field, entropy, grad, cost, weight, field, entropy, log_z, steps)
    box.box_average(features.to(real), 1, 2, "zeros")
    box.box_average_backward(features.to(real), 1, 2, "extended")
    coupled.coupled_convex(cost.to(real), [0.1])


@pytest.mark.parametrize("compiler", TARGETS, indirect=True)
def test_kernels_compile_without_spills(compiler: Compiler) -> None:
    for size, dtype in (((160, 192, 224), torch.float32), ((512, 500), torch.bfloat16)):
        sample_everywhere(size, dtype)
        go_back_everywhere(size, dtype)
    assert len(compiler.spills) == 58
    assert {name: n for name, n in compiler.spills if n} == {}


@pytest.mark.parametrize("compiler", TARGETS, indirect=True)
def test_kernels_that_need_more_registers_compile_without_spills(compiler: Compiler, deterministic: None) -> None:
    """With sums in fixed point: in float64, and for tensors of more than 2^31 numbers."""
    go_back_everywhere((33, 32, 31), torch.float64)
    go_back_everywhere((1300, 1300, 1300), torch.float32)
    assert len(compiler.spills) == 51
    assert {name: n for name, n in compiler.spills if n} == {}


@pytest.mark.parametrize("compiler", ["sm_90", "gfx942"], indirect=True)
def test_spills_are_seen(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "WARPS", 1)
    monkeypatch.setattr(triton_samplers, "block_of", lambda dtype: 1024)
    image, disp = meta(1, 2, 30, 30, 30), meta(1, 3, 30, 30, 30)
    warping.warp_backward(image, image, disp, "linear", "zeros", True, True)
    assert compiler.spills[0][1] > 0


@pytest.mark.parametrize("compiler", TARGETS, indirect=True)
def test_discrete_kernels_compile_without_spills(compiler: Compiler) -> None:
    for size, dtype in (((64, 53, 85), torch.float32), ((80, 64), torch.bfloat16)):
        search_everywhere(size, dtype)
    kernels = {name for module in DISCRETE for name in vars(module) if name.endswith("_kernel")}
    assert {name for name, _ in compiler.spills} == kernels
    assert {name: n for name, n in compiler.spills if n} == {}
