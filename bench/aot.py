"""``python -m bench.aot``: compiles every Triton kernel and CUDA file for several GPUs, none of which need be there.

It writes what each kernel takes of a GPU to ``bench/reports/aot.json``, and as a table to ``aot.md`` beside it. That
takes minutes and depends on nothing but the sources and the compilers, so the tests take what is recorded as long as
these are the same, and compile anew where they are not.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import astuple, dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from l2rfast.kernels.affine_warp import triton as affine
from l2rfast.kernels.box import triton as box
from l2rfast.kernels.bspline import triton as splines
from l2rfast.kernels.common import triton_pairs, triton_samplers, triton_sums
from l2rfast.kernels.common.precision import Form, sums_in
from l2rfast.kernels.correlation import triton as correlation
from l2rfast.kernels.coupled_convex import triton as coupled
from l2rfast.kernels.energy import triton as energy
from l2rfast.kernels.grid_sample import triton as grid
from l2rfast.kernels.integrate_velocity import triton as integration
from l2rfast.kernels.jacobian import triton as jacobian
from l2rfast.kernels.joint_histogram import triton as joint
from l2rfast.kernels.lattice_correlation import triton as lattice
from l2rfast.kernels.lncc import triton as lncc
from l2rfast.kernels.min_convolution import triton as minima
from l2rfast.kernels.soft_argmin import triton as soft
from l2rfast.kernels.symmetric_filter import triton as symmetric
from l2rfast.kernels.vote import triton as votes
from l2rfast.kernels.warp import triton as warping

from .build import build_script
from .report import table

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "bench" / "reports" / "aot.md"
RECORD = TABLE.with_suffix(".json")
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
OF_NVIDIA = [name for name in TARGETS if name.startswith("sm")]
MODULES = (
    *(box, correlation, coupled, energy, jacobian, joint, lattice, lncc, minima, soft, symmetric, triton_samplers),
    *(triton_pairs, triton_sums, splines, votes),
)


@dataclass(frozen=True)
class Built:
    """A kernel as it was compiled for one kind of launch on one GPU.

    Attributes:
        registers: of a thread (NVIDIA), vector registers of a lane (AMD).
        shared: bytes of a block.
        spills: bytes (NVIDIA) or registers (AMD) that go to memory for want of registers.
    """

    kernel: str
    target: str
    registers: int
    shared: int
    spills: int


EXPLANATION = """\
What `python -m bench.aot` finds, and the tests hold to the sources: for each kernel how many kinds of launch (dtypes,
dimensions, options) were compiled, and for each GPU the fewest and the most registers of a thread, the largest shared
memory of a block in bytes that is known when compiling, and what is spilled in all; without the registers on gfx942,
of which its compiler takes one more or less from run to run. No GPU is needed for that, and none has run."""

# --- Triton


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


def _built(name: str, target: str, kernel: Any, log: str) -> Built:
    """`log` is what was printed while it was compiled."""
    if "amdgcn" in kernel.asm:
        registers = re.findall(r"\.vgpr_count:\s*(\d+)", kernel.asm["amdgcn"])
        spills = re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", kernel.asm["amdgcn"])
    else:
        registers, spills = re.findall(r"Used (\d+) registers", log), re.findall(r"(\d+) bytes spill", log)
    (count,), (first, second) = map(int, registers), map(int, spills)
    return Built(name, target, count, kernel.metadata.shared, first + second)


Seen = Callable[[Any, Any, tuple[int, ...], dict[str, Any]], None]


@contextmanager
def compiling(target: str, each: Seen | None = None) -> Iterator[list[Built]]:
    """Has every launch compile its kernel, exactly as it would be compiled for that launch, and run nothing.

    Gives the list that the kernels are added to; `each` is told of every launch its function, the compiled kernel, the
    programs and the arguments by name. Nothing is taken from Triton's caches, which have no log.
    """
    built: list[Built] = []
    seen: set[int] = set()

    def launched(function: Any, programs: Any) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            with redirect_stdout(StringIO()) as log:
                kernel = function.run(*args, grid=programs, warmup=True, **kwargs)
            if each:
                each(function, kernel, programs, dict(zip(function.arg_names, args, strict=False)) | kwargs)
            if id(kernel) not in seen:
                seen.add(id(kernel))
                built.append(_built(function.__name__, target, kernel, log.getvalue()))

        return run

    with ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(patch.dict("os.environ", TRITON_CACHE_DIR=cache))
        stack.enter_context(patch.object(driver, "_active", NoGpu(target)))
        stack.enter_context(patch.object(triton.knobs.nvidia, "dump_ptxas_log", True))
        stack.enter_context(patch.object(JITFunction, "__getitem__", launched))
        for module in MODULES:
            for value in vars(module).values():
                if isinstance(value, JITFunction):
                    value.device_caches.clear()
        yield built


FORMS: tuple[Form, ...] = ("float64", "pairs")
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
    votes.vote(labels, disp, "zeros")
    votes.affine_vote(labels.long(), meta(1, ndim, ndim + 1, dtype=dtype), size, "border")
    integration.compose(disp, disp)
    jacobian.jacobian_determinant(disp)
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    symmetric.symmetric_filter(image.to(wide), [0.5, 0.25])
    energy.bending_energy(disp.to(wide), True)
    energy.gradient_energy(disp.to(wide), True)
    a = image.to(wide)
    splines.spline_warp(splines.spline_coefficients(a, False), disp, "zeros")
    for form in FORMS:
        with sums_in(form):
            lncc.local_ncc(image, image, None, None, [9] * ndim, [], "zeros", *MEASURE, True, False, False)
            joint.joint_histogram(a, a, None, 23, "gaussian", "gaussian", 0.5)
            joint.joint_histogram(a, a, a, 64, "cubic", "box", 0.5)


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
    a = image.to(torch.float32 if dtype.itemsize == 2 else dtype)
    splines.spline_warp_backward(a, a, disp, "zeros", True, True)
    grad = meta(1, 64, 64, dtype=torch.float64)
    joint.joint_histogram_backward(grad, a, a, None, 64, "gaussian", "gaussian", 0.5, True, False)
    joint.joint_histogram_backward(grad, a, a, a, 64, "cubic", "box", 0.5, True, True)
    mask = meta(1, 1, *size, dtype=torch.bool)
    for form in FORMS:
        with sums_in(form):
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


def triton_kernels(target: str) -> list[Built]:
    """Every kernel, for what is usual: and, of those that sum in fixed point, for what takes more registers."""
    with compiling(target) as built:
        for size, dtype in (((160, 192, 224), torch.float32), ((512, 500), torch.bfloat16)):
            sample_everywhere(size, dtype)
            go_back_everywhere(size, dtype)
        for size, dtype in (((64, 53, 85), torch.float32), ((80, 64), torch.bfloat16)):
            search_everywhere(size, dtype)
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            go_back_everywhere((33, 32, 31), torch.float64)
            go_back_everywhere((1300, 1300, 1300), torch.float32)  # more than 2^31 numbers
        finally:
            torch.use_deterministic_algorithms(before)
    return built


# --- CUDA


def cuda_kernels() -> tuple[list[Built], str]:
    """Every kernel of the CUDA files, for all NVIDIA targets, and what nvcc said.

    Raises:
        subprocess.CalledProcessError: nvcc is not there, or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        codes = [f"-gencode=arch=compute_80,code=[{','.join(OF_NVIDIA)}]", "-Xptxas=-v", "--threads=0"]
        command = build_script().cuda_command(Path(folder, "_cuda.so"), codes)
        log = subprocess.run(
            command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ).stdout
    found = re.findall(
        r"Compiling entry function '(\w+)' for '(\w+)'\n.*\n"
        r"\s+\d+ bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r"ptxas info\s+: Used (\d+) registers(?:.*?, (\d+) bytes smem)?",
        log,
    )
    assert len(found) == log.count("Compiling entry function"), "a kernel of which ptxas says something else"
    names = _named([name for name, *_ in found])
    return [
        Built(name, target, int(registers), int(shared or 0), int(stores) + int(loads))
        for name, (_, target, stores, loads, registers, shared) in zip(names, found, strict=True)
    ], log


def _named(mangled: list[str]) -> list[str]:
    """What the kernels do: the class that a launch goes over the voxels or blocks with, and where it samples."""
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), check=True, text=True, stdout=subprocess.PIPE).stdout
    plain = plain.replace("l2rfast::", "").replace("(anonymous namespace)::", "")
    found = re.findall(r"^void each_\w+_kernel<(\w+)(?:<(\w+)<)?", plain, re.MULTILINE)
    assert len(found) == len(mangled), "a kernel that is not launched by kernels/common/launch.cuh"
    return [f"{does}, {where}" if where else does for does, where in found]


# --- The record


def versions() -> dict[str, str]:
    """Of the compilers, on which the counts depend."""
    told = subprocess.run(["nvcc", "--version"], check=True, text=True, stdout=subprocess.PIPE).stdout
    (nvcc,) = re.findall(r", V([\d.]+)", told)
    return {"triton": triton.__version__, "nvcc": nvcc}


def included(file: Path) -> set[Path]:
    """The headers of the project that a C++ file names."""
    return {ROOT / "kernels" / name for name in re.findall(r'#include "(.+)"', file.read_text())}


def imported(file: Path) -> set[Path]:
    """The modules of kernels/ that one of them names; not the references beside them that it does not need."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found |= {place.with_suffix(".py"), *(place / f"{alias.name}.py" for alias in node.names)}
    return {path for path in found if path.is_file()}


def digest() -> str:
    """Of all that is compiled here, how, and this file, which says for what."""
    kernels = ROOT / "kernels"
    files = new = {*kernels.rglob("*.cu"), *kernels.rglob("triton*.py")}
    while new:  # and what they include or import
        new = {named for file in new for named in (imported if file.suffix == ".py" else included)(file)} - files
        files = files | new
    files.add(Path(__file__))
    parts = [json.dumps(build_script().CUDA_FLAGS)]
    parts += [f"{file.relative_to(ROOT)}\n{file.read_text()}" for file in sorted(files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """What was found, of what.

    Attributes:
        digest: see `digest`.
        compilers: see `versions`.
        of_triton, of_cuda: every kernel, for every target.
    """

    digest: str
    compilers: dict[str, str]
    of_triton: list[Built]
    of_cuda: list[Built]

    @classmethod
    def read(cls) -> Record:
        """The one that is committed."""
        content = json.loads(RECORD.read_text())
        of_triton, of_cuda = ([Built(*row) for row in content[name]] for name in ("of_triton", "of_cuda"))
        return cls(content["digest"], content["compilers"], of_triton, of_cuda)

    @classmethod
    def made(cls) -> Record:
        """Compiled now."""
        of_what = digest(), versions()
        of_triton = [built for target in TARGETS for built in triton_kernels(target)]
        return cls(*of_what, of_triton, cuda_kernels()[0])

    @property
    def is_of_today(self) -> bool:
        return (self.digest, self.compilers) == (digest(), versions())

    def write(self) -> None:
        """As JSON, a line for each kernel, and as a table."""
        content = {
            "digest": self.digest,
            "compilers": self.compilers,
            "of_triton": [list(astuple(built)) for built in self.of_triton],
            "of_cuda": [list(astuple(built)) for built in self.of_cuda],
        }
        RECORD.write_text(json.dumps(content).replace(", [", ",\n[") + "\n")
        TABLE.write_text(self.table())

    def table(self) -> str:
        """The page: a row for each kernel."""
        return (
            "\n\n".join(
                [
                    "# Kernels compiled ahead of time",
                    EXPLANATION,
                    table(["compiler", "version"], [list(item) for item in self.compilers.items()]),
                    "## Triton",
                    _rows(self.of_triton, list(TARGETS)),
                    "## CUDA",
                    _rows(self.of_cuda, OF_NVIDIA),
                ]
            )
            + "\n"
        )


def _rows(built: list[Built], targets: list[str]) -> str:
    figures = {target: "registers, shared, spilled" if target in OF_NVIDIA else "shared, spilled" for target in targets}
    head = ["kernel", "kinds", *(f"{target}: {names}" for target, names in figures.items())]
    rows = []
    for kernel in sorted({b.kernel for b in built}):
        cells = []
        for target in targets:
            group = [b for b in built if (b.kernel, b.target) == (kernel, target)]
            cell = f"{max(b.shared for b in group)}, {sum(b.spills for b in group)}"
            if target in OF_NVIDIA:
                registers = [b.registers for b in group]
                cell = f"{min(registers)} to {max(registers)}, {cell}"
            cells.append(cell)
        rows.append([kernel, str(len(group)), *cells])
    return table(head, rows)


def main() -> int:
    Record.made().write()
    print(TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
