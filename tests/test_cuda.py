"""The CUDA backend without a GPU: its kernels compiled for several, and what a thread of them does run on the host.

Only the launch is left untested: kernels/common/launch.cuh, compiled as C++, goes over the voxels in a loop and adds
without atomics; everything else, from the operator's arguments on, is what runs on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from evaluation import LAYOUTS, TOLERANCES, disagreements, evaluate
from native import CUDA_SOURCES
from operators import OPERATIONS, Operation
from samples import noise
from torch import Tensor

import l2rfast
from l2rfast._dispatch import OPERATORS
from l2rfast.kernels.common.precision import sums_in


def implemented(*using: str) -> set[str]:
    """The operators of files in which any of that stands."""
    texts = [source.read_text() for source in CUDA_SOURCES]
    return {name for t in texts if any(u in t for u in using) for name in re.findall(r'm\.impl\("(\w+)"', t)}


def cases(names: set[str]) -> list[Any]:
    """Their operations, with sums in each form that they have."""
    return [
        pytest.param((operation, form), id=operation.name if form == "float64" else f"{operation.name}-{form}")
        for operation in OPERATIONS
        if (name := operation.made_of or operation.name) in names
        for form in (("float64", "pairs") if name in PAIRED else ("float64",))
    ]


PAIRED = implemented("for_sums")
SHARING = implemented("each_block(", "for_sums")  # memory, between threads of a block

each_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d).removeprefix("torch."))


@pytest.fixture(params=cases(implemented("m.impl")))
def operation(request: pytest.FixtureRequest) -> Iterator[Operation]:
    """Each that is implemented, with sums in each form that it has."""
    case, form = request.param
    with sums_in(form):
        yield case


def compare(operation: Operation, dtype: torch.dtype, samples: list[Any]) -> None:
    wrong = []
    for sample in samples:
        inputs = {name: t.to(dtype) for name, t in sample.inputs.items()}
        got = evaluate(operation, inputs, sample.options, backend="cuda")
        exact = {name: t.double() for name, t in inputs.items()}
        expected = evaluate(operation, exact, sample.options, backend="reference")
        assert {value.dtype for value in got.values()} == {dtype}
        wrong += disagreements(got, expected, sample.name)
    assert not wrong


@each_dtype
def test_values_and_gradients_are_those_of_the_reference(operation: Operation, dtype: torch.dtype, host: None) -> None:
    compare(operation, dtype, operation.samples)


@pytest.mark.parametrize("operation", [case for case in cases(SHARING) if case.values[0][0].big], indirect=True)
def test_values_and_gradients_of_many_blocks_are_those_of_the_reference(operation: Operation, host: None) -> None:
    compare(operation, torch.float32, operation.big)


def test_deterministic_gradients_are_those_of_the_reference(
    operation: Operation, host: None, deterministic: None
) -> None:
    # A sum is exact to some 2^-50 of the largest gradient, which is less than float64 promises.
    for dtype in (torch.float32, torch.float16):
        compare(operation, dtype, operation.samples)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(operation: Operation, layout: str, host: None) -> None:
    form = LAYOUTS[layout]
    for sample in operation.some():
        inputs = {name: form(t) if t.ndim > 3 else t for name, t in sample.inputs.items()}
        got = evaluate(operation, inputs, sample.options, backend="cuda", layout=lambda t: form(t) if t.ndim > 3 else t)
        expected = evaluate(operation, inputs, sample.options, backend="reference")
        if layout != "expanded":  # whose weights differ
            assert not disagreements(got, expected, layout)


def test_labels_of_every_dtype_in_one_pass(host: None) -> None:
    disp = 2 * noise(2, 3, 3, 4, 2).float()
    disp[0, 1, 0] = torch.nan
    dtypes = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16)
    images = [noise(2, 2, 4, 3, 3).half()] + [(3 * noise(2, 1, 4, 3, 3)).to(dtype) for dtype in 2 * dtypes]
    modes = ["linear"] + ["nearest"] * 2 * len(dtypes)
    with l2rfast.backend("cuda"):
        got = l2rfast.warp_many(images, disp, modes=modes, padding="zeros")
    with l2rfast.backend("reference"):
        expected = l2rfast.warp_many(images, disp, modes=modes, padding="zeros")
    torch.testing.assert_close(got[0], expected[0], equal_nan=True)
    for g, e in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_votes_for_labels_of_every_dtype(padding: str, host: None) -> None:
    disp = torch.round(8 * noise(2, 3, 3, 4, 2)) / 4
    disp[0, 1, 0] = torch.nan
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.int64):
        labels = torch.randint(-2, 3, (2, 2, 4, 3, 3)).to(dtype)  # without a sign, -1 is the largest
        with l2rfast.backend("cuda"):
            got = l2rfast.warp(labels, disp, mode="vote", padding=padding)
        with l2rfast.backend("reference"):
            expected = l2rfast.warp(labels, disp, mode="vote", padding=padding)
        assert got.dtype == dtype
        assert torch.equal(got.long(), expected.long()), dtype


@pytest.mark.parametrize("pool", [1, 3, 5, 20, 33])
def test_descriptors_of_several_tiles(pool: int, host: None) -> None:
    """Of which cells of a pool are parts, or which are parts of a cell."""
    for image in (noise(2, 1, 41, 75), noise(2, 1, 33, 35, 67)):
        with l2rfast.backend("reference"):
            expected = l2rfast.mind_ssc(image, 1, 2, pool=pool)
        for dtype in (torch.float64, torch.float32):
            with l2rfast.backend("cuda"):
                got = l2rfast.mind_ssc(image.to(dtype), 1, 2, pool=pool)
            assert not disagreements({"features": got}, {"features": expected}, str(pool))


def test_channels_of_more_than_32_bits(host: None) -> None:
    """In memory of which almost all is never touched."""
    far = 2**31 + 5
    image = torch.empty(far + 8, dtype=torch.float16).as_strided((1, 1, 2, 3), (0, 0, far, 2))
    image.copy_(noise(1, 1, 2, 3))
    disp, grad = noise(1, 2, 2, 3).float(), noise(1, 1, 2, 3).half()
    got = torch.ops.l2rfast_cuda.warp(image, disp, "linear", "border")
    torch.testing.assert_close(got, OPERATORS["warp"]._reference(image, disp, "linear", "border"))
    _, to_disp = torch.ops.l2rfast_cuda.warp_backward(grad, image, disp, "linear", "border", False, True)
    _, expected = OPERATORS["warp_backward"]._reference(grad, image, disp, "linear", "border", False, True)
    torch.testing.assert_close(to_disp, expected)


def gradient_in_two_orders(dtype: torch.dtype) -> list[Tensor]:
    """That to an image, of the same samples."""
    image = torch.zeros(1, 1, 3, 3, 2, dtype=dtype)
    where = 2 * torch.rand(1, 12, 7, 6, 3, dtype=dtype) - 1
    grad = torch.randn(1, 1, 12, 7, 6, dtype=dtype)
    backward = torch.ops.l2rfast_cuda.grid_sample_backward
    return [
        backward(g, image, w, "linear", "zeros", True, True, False)[0]
        for g, w in ((grad, where), (grad.flip(2, 3, 4), where.flip(1, 2, 3)))
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deterministic_sums_do_not_depend_on_the_order(dtype: torch.dtype, host: None, deterministic: None) -> None:
    assert torch.equal(*gradient_in_two_orders(dtype))
    torch.use_deterministic_algorithms(False)
    assert not torch.equal(*gradient_in_two_orders(dtype))  # as they do without: the test can tell


def to_image(grad: Tensor, disp: Tensor) -> Tensor:
    gradient: Tensor = torch.ops.l2rfast_cuda.warp_backward(grad, grad, disp, "linear", "zeros", True, False)[0]
    return gradient


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-100, 2.0**100, 0.0])
def test_deterministic_sums_of_large_and_small_gradients(scale: float, host: None, deterministic: None) -> None:
    grad, disp = torch.round(noise(1, 1, 6, 7) * 16).float(), torch.round(noise(1, 2, 6, 7) * 4).float() / 4
    assert torch.equal(to_image(grad * scale, disp), to_image(grad, disp) * scale)


def test_a_deterministic_sum_of_as_many_samples_as_there_are_does_not_overflow(host: None, deterministic: None) -> None:
    grad = torch.full((1, 1, 64, 64), 1.999)
    disp = -torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))[None]
    total = to_image(grad, disp)
    torch.testing.assert_close(total[0, 0, 0, 0], grad.sum())
    assert torch.count_nonzero(total) == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_where_it_is(bad: float, host: None, deterministic: None) -> None:
    grad, disp = noise(1, 1, 6, 7).float(), torch.full((1, 2, 6, 7), 0.25)
    grad[0, 0, 2, 3] = 0
    clean = to_image(grad, disp)
    grad[0, 0, 2, 3] = bad
    got = to_image(grad, disp)
    touched = torch.zeros_like(got, dtype=torch.bool)
    touched[..., 2:4, 3:5] = True
    assert torch.equal(got.isnan(), touched)
    assert torch.equal(got[~touched], clean[~touched])
