"""The operation of the chapter on how a kernel is made: its definition, and every backend against it.

Triton interprets its kernels where TRITON_INTERPRET=1 when it is imported: a test starts those of values in a process
that has it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import interpreting
import pytest
import torch
from evaluation import LAYOUTS
from torch import Tensor

import l2rfast
from l2rfast import _dispatch

FOLDER = Path(__file__).parent.parent / "docs" / "performance"
EDGE, SCALE = 0.3, 4096
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Interpreted, a block of voxels takes a tenth of a second.
SHAPES = [(1, 1, 5, 7, 9), (1, 1, 13, 21), (1, 1, 1, 5, 1)]
SHAPES += [] if INTERPRETED else [(2, 2, 7, 9, 11), (1, 1, 35, 19, 40), (1, 1, 3, 2, 2)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
TOLERANCES |= {} if INTERPRETED else {torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(scope="module", autouse=True)
def _chapter() -> Iterator[None]:
    """Its package can be imported; its operator is of no other test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        patch.setattr(_dispatch, "OPERATORS", {**_dispatch.OPERATORS})
        importlib.import_module("kernel.operator")
        yield


@pytest.fixture(scope="module")
def load(_chapter: None) -> Callable[..., None]:
    return importlib.import_module("kernel.build").load  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def compiled(load: Callable[..., None]) -> None:
    load("cpu.cpp", "-O1")


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By its name, ready to run on the CPU."""
    name: str = request.param
    if name == "cuda":
        request.getfixturevalue("load")("cuda.cu", "-O1")
        monkeypatch.setitem(_dispatch._NATIVE, "cuda", "CPU")
    elif name == "cpp":
        request.getfixturevalue("compiled")
    return name


def distance(fixed: Tensor, moving: Tensor) -> Tensor:
    chapter: Any = importlib.import_module("kernel.operator")
    result: Tensor = chapter.normalised_gradient_fields(fixed, moving, edge=EDGE)
    return result


def with_gradients(fixed: Tensor, moving: Tensor, name: str) -> tuple[Tensor, ...]:
    leaves = [image.detach().requires_grad_() for image in (fixed, moving)]
    with l2rfast.backend(name):
        value = distance(*leaves)
        # Of a mean over many voxels gradients are smaller than float16's normal numbers: training scales its loss.
        return value.detach(), *torch.autograd.grad(value, leaves, torch.full_like(value, SCALE))


BACKENDS = pytest.mark.parametrize("backend", ["triton"] if INTERPRETED else ["cpp", "cuda"], indirect=True)


@BACKENDS
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES.items())
def test_values_and_gradients_are_those_of_the_reference(backend: str, dtype: torch.dtype, tolerance: float) -> None:
    for shape in SHAPES:
        images = [torch.rand(shape).to(dtype) for _ in range(2)]
        got = with_gradients(*images, backend)
        expected = with_gradients(*(image.double() for image in images), "reference")
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == dtype
            assert (one.double() - other).norm() <= tolerance * other.norm(), shape


@pytest.mark.parametrize("backend", ["cpp", "cuda"], indirect=True)
def test_any_strides_give_the_same_bits(backend: str) -> None:
    fixed, moving = torch.rand(2, 1, 2, 4, 5, 6)
    usual = with_gradients(fixed, moving, backend)
    for layout in (LAYOUTS[name] for name in ("transposed", "channels_last", "sliced")):
        for one, other in zip(with_gradients(layout(fixed), layout(moving), backend), usual, strict=True):
            assert torch.equal(one, other)


def test_the_bits_are_the_same_for_any_number_of_threads(compiled: None) -> None:
    images = torch.rand(2, 1, 2, 37, 41, 33)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(with_gradients(*images, "cpp"))
    assert all(torch.equal(a, b) for other in found for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (2, 1, 3, 4, 5), (1, 1, 1, 6)])
def test_the_definition_is_differentiated(shape: tuple[int, ...], compiled: None) -> None:
    images = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    for name in ("reference", "cpp"):
        with l2rfast.backend(name):
            assert torch.autograd.gradcheck(distance, images)


def test_the_operator_is_one_for_pytorch(compiled: None) -> None:
    images = [torch.rand(1, 2, 5, 6, 7, requires_grad=True) for _ in range(2)]
    torch.library.opcheck(torch.ops.l2rfast.ngf, (*images, EDGE))


def test_what_it_means() -> None:
    """Edges that are parallel, of whatever contrast; without edges, nothing in common."""
    image = torch.rand(1, 1, 9, 9, 9)
    flat = torch.ones_like(image)
    chapter: Any = importlib.import_module("kernel.operator")
    same = chapter.normalised_gradient_fields(image, 5 - 3 * image, edge=1e-4)
    assert 0 <= same < 1e-3
    assert distance(image, flat) == 1
    with pytest.raises(l2rfast.InputError, match=r"^edge: expected a positive number, got 0$"):
        chapter.normalised_gradient_fields(image, image, edge=0)
    with pytest.raises(l2rfast.InputError, match=r"^fixed and moving: expected one shape"):
        distance(image, image[..., 1:])


if not INTERPRETED:

    def test_triton_interpreted() -> None:
        """The tests of values of this file, in a process where kernels are interpreted."""
        interpreting.check(__file__, "-k", "triton")
