"""The calls of operators whose times on GPUs are predicted: float32, in 3-D, of the sizes of the benchmark."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2rfast.kernels.common.precision import Form as Sums
from l2rfast.kernels.common.precision import sums_in

from . import launched
from .launched import Launch

ROOT = Path(__file__).parent.parent
New = Callable[..., Tensor]  # makes a tensor of a shape; of float32 if no dtype is said
Call = tuple[str, tuple[Any, ...]]  # an operator and its arguments


def folder_of(operator: str, file: str) -> str | None:
    """The folder of kernels/ that has an operator in a file of this name."""
    said = {"cuda.cu": rf'm\.impl\("{operator}"', "triton.py": rf"^def {operator}\("}[file]
    found = [p for p in ROOT.glob(f"kernels/*/{file}") if re.search(said, p.read_text(), re.MULTILINE)]
    return found[0].parent.name if found else None


@dataclass(frozen=True)
class Case:
    """What is predicted.

    Attributes:
        name: that of the case of the benchmark that measures it, where there is one.
        make: the calls, of inputs that it is given a function to make.
        besides: bytes that the kernels of a backend move besides the floor, where that is known.
        sums: in what kernels keep sums that float32 cannot hold; as on a card of fast float64 when None.
    """

    name: str
    make: Callable[[New], list[Call]]
    besides: dict[str, int] = field(default_factory=dict)
    sums: Sums | None = None

    def backends(self) -> list[str]:
        """Those that have all its operators."""
        operators = [operator for operator, _ in self.make(partial(torch.empty, device="meta"))]
        files = {"cuda": "cuda.cu", "triton": "triton.py"}
        return [name for name, file in files.items() if all(folder_of(operator, file) for operator in operators)]


@dataclass(frozen=True)
class Observed:
    """A case as a backend would compute it.

    Attributes:
        launches: of all its calls.
        results: numbers in the largest result.
        floor: bytes of its inputs and results.
        memory: the most bytes that are allocated at once; of CUDA's only.
    """

    launches: list[Launch]
    results: int
    floor: int
    memory: int | None


def observed(case: Case, backend: str, target: str) -> Observed:
    """On a target; that of CUDA's is the same on all."""
    results: list[Tensor] = []
    calls = case.make(partial(torch.empty, device="meta" if backend == "triton" else "cpu"))

    def run() -> None:
        for operator, arguments in calls:
            results.extend(_tensors(_function(operator, backend)(*arguments)))

    with sums_in(case.sums) if case.sums else nullcontext():
        if backend == "triton":
            launches, memory = launched.of_triton(target, run), None
        else:
            folders = [folder for operator, _ in calls if (folder := folder_of(operator, "cuda.cu"))]
            launches, memory = launched.of_cuda(list(dict.fromkeys(folders)), run)
    inputs = {id(t): t for _, arguments in calls for t in _tensors(arguments)}
    floor = sum(t.nbytes for t in [*inputs.values(), *results])
    return Observed(launched.together(launches), max(t.numel() for t in results), floor, memory)


def _function(operator: str, backend: str) -> Callable[..., Any]:
    if backend == "cuda":
        function: Callable[..., Any] = getattr(torch.ops.l2rfast_cuda, operator)
    else:
        folder = folder_of(operator, "triton.py")
        function = getattr(importlib.import_module(f"l2rfast.kernels.{folder}.triton"), operator)
    return function


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [t for v in values for t in _tensors(v)] if isinstance(values, tuple | list) else []


# --- The cases

DENSE, HALF = (160, 192, 224), (80, 96, 112)
SEARCH, POINTS, FEATURES = (11, 11, 11), (29, 29, 29), (64, 53, 85)  # PDD-Net's first level
MANY = 2, 16, 128, 128, 128
NCC = "local NCC of 2 items of 16 channels, forward and backward to one image"
KEPT = 2 * 3 * 4 * 2 * 16 * 128**3  # three float32 quantities of a voxel that gradients sum over, written and read


def local_ncc(new: New) -> list[Call]:
    constants = [0.0, 0.0, 1e-5, 1.0], True  # of MONAI's
    return [("local_ncc", (new(MANY), new(MANY), None, None, [7] * 3, [], "zeros", *constants, False, True, False))]


def warp_local_ncc(new: New) -> list[Call]:
    options = None, new((1,)), [9] * 3, [], "zeros", [0.0, 0.0, 1e-5, 1.0], True, "border", [1] * 3
    return [("warp_local_ncc", (image(new), image(new), field_of(new), *options))]


def image(new: New) -> Tensor:
    return new((1, 1, *DENSE))


def field_of(new: New, size: tuple[int, ...] = DENSE) -> Tensor:
    return new((1, 3, *size))


def warp_and_back(new: New) -> list[Call]:
    a, disp = image(new), field_of(new)
    back = image(new), a, disp, "linear", "zeros", True, True
    return [("warp", (a, disp, "linear", "zeros")), ("warp_backward", back)]


def integrate_and_back(new: New) -> list[Call]:
    velocity = field_of(new, HALF)
    return [
        ("integrate_velocity", (velocity, 7)),
        ("integrate_velocity_backward", (field_of(new, HALF), velocity, 7)),
    ]


def soft_argmin(new: New) -> list[Call]:
    return [("soft_argmin", (new((1, *SEARCH, *POINTS)), new(()), [1.0] * 3, False))]


def min_convolution_back(new: New) -> list[Call]:
    cost = new((1, *SEARCH, *POINTS))
    return [("min_convolution_backward", (new(cost.shape), cost, new(())))]


def lattice_correlation(new: New) -> list[Call]:
    fixed, moving = new((1, 24, *POINTS)), new((1, 24, *FEATURES))
    return [("lattice_correlation", (fixed, moving, [0.0] * sum(POINTS), [0.0] * sum(SEARCH), list(SEARCH), "ssd"))]


def correlation(new: New) -> list[Call]:
    a, b = new((1, 12, 40, 32, 32)), new((1, 12, 40, 32, 32))
    return [("correlation", (a, b, [4] * 3, 1, "border", 0, "ssd"))]


def histogram(new: New) -> list[Call]:
    return [("joint_histogram", (image(new), image(new), None, 23, "gaussian", "gaussian", 0.5))]


def one(operator: str, *options: Any, disp: bool = False, channels: int = 1) -> Callable[[New], list[Call]]:
    """A call on an image of so many channels, and a field of displacements where it needs one."""
    return lambda new: [
        (operator, (new((1, channels, *DENSE)), *([field_of(new)] if disp else []), *options)),
    ]


CASES = (
    Case(NCC, local_ncc, {"cuda": KEPT}),
    Case(f"{NCC}; in pairs of float32", local_ncc, {"cuda": KEPT}, "pairs"),
    Case("local NCC of a warped image, and the gradient to the field", warp_local_ncc),
    Case("warp, 1 channel", one("warp", "linear", "zeros", disp=True)),
    Case("warp, 16 channels", one("warp", "linear", "zeros", disp=True, channels=16)),
    Case("warp, forward and backward to image and field, 1 channel", warp_and_back),
    Case("warp and its derivative", one("warp_with_gradient", "zeros", disp=True)),
    Case("integrate velocity, forward and backward", integrate_and_back),
    Case("compose", lambda new: [("compose", (field_of(new), field_of(new)))]),
    Case("grid_sample", lambda new: [("grid_sample", (image(new), new((1, *DENSE, 3)), "linear", "zeros", False))]),
    Case("affine warp", lambda new: [("affine_warp", (image(new), new((1, 3, 4)), DENSE, "linear", "border"))]),
    Case("votes of labels", lambda new: [("vote", (image(new).short(), field_of(new), "zeros"))]),
    Case("B-spline coefficients", one("spline_coefficients", False)),
    Case("B-spline warp", one("spline_warp", "zeros", disp=True)),
    Case("sinc", one("sinc", "zeros", disp=True)),
    Case("box average", one("box_average", 3, 1, "zeros")),
    Case("symmetric filter", one("symmetric_filter", [0.4, 0.2, 0.1])),
    Case("Jacobian determinant", lambda new: [("jacobian_determinant", (field_of(new),))]),
    Case("bending energy, and its gradient", lambda new: [("bending_energy", (field_of(new), True))]),
    Case("joint histogram", histogram),
    Case("MIND-SSC", one("mind_ssc", 1, 2, 1)),
    Case("correlation, half-width 4", correlation),
    Case("lattice correlation", lattice_correlation),
    Case("min-convolution", lambda new: [("min_convolution", (new((1, *SEARCH, *POINTS)), new(())))]),
    Case("min-convolution, backward", min_convolution_back),
    Case("soft arg-min", soft_argmin),
    Case("coupled convex", lambda new: [("coupled_convex", (new((1, *SEARCH, *POINTS)), [0.1, 0.3, 1.0]))]),
)
