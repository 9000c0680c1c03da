"""The Triton backend without a GPU: its kernels interpreted.

Triton interprets kernels or compiles them as the environment says when it is imported. The tests of values run where
TRITON_INTERPRET=1; another starts them in a process that has it.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import interpreting
import pytest
import torch
from evaluation import LAYOUTS, TOLERANCES, disagreements, evaluate, same_bits
from operators import OPERATIONS
from packaging.version import Version
from samples import noise
from torch import Tensor

import l2rfast
from l2rfast._dispatch import OPERATORS
from l2rfast.kernels.common.recompute import backwards

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
interpreter = pytest.importorskip("triton.runtime.interpreter")

from l2rfast.kernels.common import triton_launch, triton_samplers  # noqa: E402
from l2rfast.kernels.common.precision import Form, sums_in  # noqa: E402
from l2rfast.kernels.common.triton_launch import USUAL, Shape, in_tuned_shape, shaped, tuned_shape  # noqa: E402
from l2rfast.kernels.grid_sample import triton as grid  # noqa: E402
from l2rfast.kernels.lncc import triton as lncc  # noqa: E402
from l2rfast.kernels.warp import triton as warping  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = [operation for operation in OPERATIONS if operation.name in OPERATORS and "triton" in operation.backends]

# Of infinity times 0 and the like, which a GPU makes NaN of without a word.
NUMPY_WARNINGS = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def test_a_chain_is_gone_back_over_with_few_fields() -> None:
    alive: list[int] = []
    most, steps, order = 0, 0, []

    class Number:
        def __init__(self, value: int) -> None:
            self.value = value
            alive.append(value)

        def __del__(self) -> None:
            alive.remove(self.value)

    def step(field: Any) -> Any:
        nonlocal most, steps
        following = Number(field.value + 1)
        most, steps = max(most, len(alive)), steps + 1
        return following

    backwards(0, 40, Number(0), step, lambda field: order.append(field.value))  # type: ignore[arg-type]
    assert order == list(reversed(range(40)))
    assert most <= 6  # the first, three between, the one a step starts from and the one it makes
    assert steps < 40 * 39 / 4


def test_an_operator_is_launched_in_the_shape_tuned_for_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tuned.json"
    file.write_text('{"GPU A": {"warp": [512, 8]}}')
    monkeypatch.setattr(triton_launch, "TUNED", file)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU A")
    tuned_shape.cache_clear()
    image = types.SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(triton_launch, "Tensor", types.SimpleNamespace)

    warp, compose = (in_tuned_shape(name, lambda image: triton_launch.shape()) for name in ("warp", "compose"))
    assert warp(image) == Shape(512, 8)
    assert compose(image) == USUAL
    for forced in (Shape(64, 2), USUAL):
        with shaped(forced):
            assert warp(image) == forced
    assert triton_launch.shape() == USUAL
    tuned_shape.cache_clear()


@contextmanager
def overflow_checked(checked: bool) -> Iterator[None]:
    """Whether the interpreter checks every sum and product of 32-bit integers."""
    with pytest.MonkeyPatch.context() as patch:
        builder = interpreter.interpreter_builder
        patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=checked))
        yield


@pytest.fixture(autouse=INTERPRETED, scope="module")
def _quick() -> Iterator[None]:
    """Triton's interpreter without what it does again and again: three quarters of the time of these tests.

    Offsets into small tensors are far from an overflow. And with every call of one function by another it makes its
    language what it is already since the kernel was launched, for functions of the same module.
    """
    usual, seen = interpreter._patch_lang, set()

    def once(function: Any) -> Any:
        if tl.core.is_builtin(tl.load):  # as it was: this is a launch
            seen.clear()
        if function.__module__ not in seen:
            seen.add(function.__module__)
            return usual(function)

    with pytest.MonkeyPatch.context() as patch, overflow_checked(False):
        patch.setattr(interpreter, "_patch_lang", once)
        yield


class TestInterpreted:
    """Values, on CPU tensors."""

    __test__ = INTERPRETED
    pytestmark = NUMPY_WARNINGS

    @pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d).removeprefix("torch."))
    @pytest.mark.parametrize("operation", HERE, ids=lambda o: o.name)
    def test_values_and_gradients_are_those_of_the_reference(self, operation: Any, dtype: torch.dtype) -> None:
        # The interpreter is slow. A step that is no multiple of 2 or 3 goes through all combinations of the options.
        some = {
            torch.float64: [*operation.some(), *operation.samples[::17]],
            torch.float32: operation.samples[2::23],
        }.get(dtype, operation.samples[5::67])
        wrong = []
        for sample in some or operation.samples[-1:]:
            inputs = {name: t.to(dtype) for name, t in sample.inputs.items()}
            got = evaluate(operation, inputs, sample.options, backend="triton")
            exact = {name: t.double() for name, t in inputs.items()}
            expected = evaluate(operation, exact, sample.options, backend="reference")
            assert {value.dtype for value in got.values()} == {dtype}
            wrong += disagreements(got, expected, sample.name)
        assert not wrong

    @pytest.mark.parametrize(
        ("layout", "block"),
        [("expanded", USUAL.block), ("channels_last", 32)],  # the second makes several programs even here
    )
    @pytest.mark.parametrize("operation", HERE, ids=lambda o: o.name)
    def test_neither_strides_nor_the_shape_of_a_launch_matter(self, operation: Any, layout: str, block: int) -> None:
        form, sample = LAYOUTS[layout], operation.some()[-1]
        inputs = {name: form(t) if t.ndim > 3 else t for name, t in sample.inputs.items()}
        with shaped(Shape(block, warps=1)):
            got = evaluate(operation, inputs, sample.options, backend="triton")
        expected = evaluate(operation, inputs, sample.options, backend="reference")
        assert not disagreements(got, expected, layout)

    def test_local_ncc_in_several_slabs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lncc, "PLANES", 2)
        monkeypatch.setattr(lncc, "VOXELS", 200)
        (operation,) = (o for o in OPERATIONS if o.name == "masked_local_ncc")
        shape = (2, 2, 9, 4, 5)
        mask = (noise(2, 1, *shape[2:]) < 0.5).double()
        inputs = {"a": noise(*shape), "b": noise(*shape), "mask": mask}
        for options in ({"window": (5, 3, 1), "reduction": "none"}, {"window": 3, "weighting": "gaussian"}):
            got = evaluate(operation, inputs, options, backend="triton")
            expected = evaluate(operation, inputs, options, backend="reference")
            assert not disagreements(got, expected, str(options))

    @pytest.mark.parametrize("form", ["float64", "pairs"])
    def test_local_ncc_of_images_with_an_offset(self, form: Form) -> None:
        (operation,) = (o for o in OPERATIONS if o.name == "local_ncc")
        inputs = {name: (noise(1, 1, 6, 7) + 1e4).float() for name in "ab"}
        with sums_in(form):
            got = evaluate(operation, inputs, {"window": 3}, backend="triton")
        exact = {name: t.double() for name, t in inputs.items()}
        expected = evaluate(operation, exact, {"window": 3}, backend="reference")
        assert not disagreements(got, expected, "offset")

    @pytest.mark.parametrize("level", [0.3, 1e6])
    def test_local_ncc_in_pairs_of_flat_regions(self, level: float) -> None:
        images = [(1000 + 20 * noise(1, 1, 5, 20)).float() for _ in range(2)]
        for image in images:
            image[..., :10] = level
            image.requires_grad_()
        with l2rfast.backend("triton"), sums_in("pairs"):
            every = l2rfast.local_ncc(*images, window=3, reduction="none")
            gradients = torch.autograd.grad(every.sum(), images)
        assert not every[..., 1:-1, 1:9].any()
        assert every[..., 1:-1, 9:-1].all()
        assert not any(gradient[..., 2:-2, 2:8].any() for gradient in gradients)

    @pytest.mark.parametrize("name", ["local_ncc", "masked_local_ncc", "joint_histogram"])
    def test_sums_in_pairs(self, name: str) -> None:
        (operation,) = (o for o in OPERATIONS if o.name == name)
        for sample in [*operation.some()[:2], *operation.samples[3::67]]:
            inputs = {n: t.float() for n, t in sample.inputs.items()}
            with sums_in("pairs"):
                got = evaluate(operation, inputs, sample.options, backend="triton")
            exact = {n: t.double() for n, t in inputs.items()}
            expected = evaluate(operation, exact, sample.options, backend="reference")
            assert not disagreements(got, expected, sample.name)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_local_ncc_in_pairs_of_what_is_not_finite(self, bad: float) -> None:
        a, b = noise(1, 1, 4, 9).float(), noise(1, 1, 4, 9).float()
        a[..., 1, 2] = bad
        with l2rfast.backend("triton"), sums_in("pairs"):
            got = l2rfast.local_ncc(a, b, window=3, reduction="none")
        with l2rfast.backend("reference"):
            expected = l2rfast.local_ncc(a, b, window=3, reduction="none")
        assert expected.isnan().any()
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7, equal_nan=True)

    @pytest.mark.parametrize("ndim", [2, 3])
    def test_several_blocks(self, ndim: int, monkeypatch: pytest.MonkeyPatch) -> None:
        (operation,) = (o for o in HERE if o.name == "warp")
        sample = next(s for s in operation.big if s.inputs["image"].ndim == 2 + ndim)
        part = (..., *[slice(18 if ndim == 2 else 7)] * ndim)
        inputs = {name: t[part] for name, t in sample.inputs.items()}
        expected = evaluate(operation, inputs, sample.options, backend="reference")
        assert not disagreements(evaluate(operation, inputs, sample.options, backend="triton"), expected, "32-bit")
        monkeypatch.setattr(triton_samplers, "index_of", lambda *tensors: tl.int64)
        assert not disagreements(evaluate(operation, inputs, sample.options, backend="triton"), expected, "64-bit")

    def test_tensors_beyond_32_bits(self) -> None:
        """Offsets between channels, and between components, of more than 2^31, in memory that is hardly touched."""
        far = 2**30 + 3
        image = torch.empty(2 * far + 8, dtype=torch.int8).as_strided((1, 2, 2, 2, 2), (0, 2 * far, 4, 2, 1))
        disp = torch.empty(2 * far + 8, dtype=torch.float16).as_strided((1, 3, 2, 2, 2), (0, far, 4, 2, 1))
        image.copy_(torch.randint(-9, 9, image.shape))
        disp.copy_(torch.randint(-1, 2, disp.shape))
        assert triton_launch.index_of(image) == tl.int64
        with overflow_checked(True):
            got = warping.warp(image, disp, "nearest", "border")
        with l2rfast.backend("reference"):
            expected = l2rfast.warp(image.contiguous(), disp.contiguous(), mode="nearest")
        assert torch.equal(got, expected)

    def test_images_of_several_dtypes_in_one_launch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        launches: list[Any] = []
        launch = triton_samplers.launch
        monkeypatch.setattr(triton_samplers, "launch", lambda *a, **k: (launches.append(a[0]), launch(*a, **k)))
        disp = 2 * noise(2, 3, 3, 4, 2).float()
        images = [noise(2, 2, 4, 3, 3).to(torch.bfloat16)]
        dtypes = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16)
        images += [(3 * noise(2, 1, 4, 3, 3)).to(dtype) for dtype in dtypes]
        modes = ["linear"] + ["nearest"] * len(dtypes)
        disp[0, 1, 0] = torch.nan
        with l2rfast.backend("triton"):
            got = l2rfast.warp_many(images, disp, modes=modes, padding="zeros")
        assert len(launches) == 1
        with l2rfast.backend("reference"):
            expected = l2rfast.warp_many(images, disp, modes=modes, padding="zeros")
        assert [g.dtype for g in got] == [image.dtype for image in images]
        for g, e in zip(got[1:], expected[1:], strict=True):
            torch.testing.assert_close(g, e, rtol=0, atol=0, equal_nan=True)

    def test_only_the_gradients_asked_for_are_made(self) -> None:
        image, disp = noise(1, 1, 4, 3), noise(1, 2, 4, 3)
        both = warping.warp_backward(image, image, disp, "linear", "border", True, True)
        for to_image, to_disp in ((True, False), (False, True), (False, False)):
            got = warping.warp_backward(image, image, disp, "linear", "border", to_image, to_disp)
            for g, b, asked in zip(got, both, (to_image, to_disp), strict=True):
                assert torch.equal(g, b) if asked else g.shape == (0,)


def reordered_sums(dtype: torch.dtype) -> list[Tensor]:
    """The gradient to an image from the same samples in two orders."""
    generator = torch.Generator().manual_seed(1)
    image = torch.zeros(1, 1, 3, 3, 2, dtype=dtype)
    where = 2 * torch.rand(1, 12, 7, 6, 3, dtype=dtype, generator=generator) - 1
    grad = torch.randn(1, 1, 12, 7, 6, dtype=dtype, generator=generator)
    return [
        grid.grid_sample_backward(g, image, w, "linear", "zeros", True, True, False)[0]
        for g, w in ((grad, where), (grad.flip(2, 3, 4), where.flip(1, 2, 3)))
    ]


class TestDeterministic:
    """Sums in fixed point, interpreted."""

    __test__ = INTERPRETED
    pytestmark = NUMPY_WARNINGS

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_order_does_not_matter(self, dtype: torch.dtype, deterministic: None) -> None:
        one, other = reordered_sums(dtype)
        assert torch.equal(one, other)
        torch.use_deterministic_algorithms(False)
        one_floating, other_floating = reordered_sums(dtype)
        assert not torch.equal(one_floating, other_floating)  # it does, by default: the test can tell
        torch.testing.assert_close(one, one_floating, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("name", ["warp", "grid_sample", "affine_warp", "integrate_velocity"])
    def test_values_are_those_of_the_reference(self, name: str, dtype: torch.dtype, deterministic: None) -> None:
        (operation,) = (o for o in HERE if o.name == name)
        for sample in operation.some()[:4]:
            inputs = {n: t.to(dtype) for n, t in sample.inputs.items()}
            got = [evaluate(operation, inputs, sample.options, backend="triton") for _ in range(2)]
            assert same_bits(*got)
            torch.use_deterministic_algorithms(False)  # of which the reference has none on some devices
            exact = {n: t.double() for n, t in inputs.items()}
            expected = evaluate(operation, exact, sample.options, backend="reference")
            torch.use_deterministic_algorithms(True)
            assert not disagreements(got[0], expected, sample.name)

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
    def test_large_and_small_gradients(self, scale: float, deterministic: None) -> None:
        image, disp = noise(1, 1, 4, 3).float(), noise(1, 2, 4, 3).float()
        grad = noise(1, 1, 4, 3).float()
        one, _ = warping.warp_backward(grad, image, disp, "linear", "border", True, False)
        scaled, _ = warping.warp_backward(grad * scale, image, disp, "linear", "border", True, False)
        torch.testing.assert_close(scaled / scale, one)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_what_is_not_finite_stays_where_it_is(self, bad: float, deterministic: None) -> None:
        image, disp = torch.zeros(1, 1, 6, 7), torch.full((1, 2, 6, 7), 0.25)
        grad = noise(1, 1, 6, 7).float()
        clean, _ = warping.warp_backward(
            grad.index_fill(3, torch.tensor(3), 0), image, disp, "linear", "zeros", True, False
        )
        grad[0, 0, 2, 3] = bad
        grad[0, 0, :2, 3] = grad[0, 0, 3:, 3] = 0
        got, _ = warping.warp_backward(grad, image, disp, "linear", "zeros", True, False)
        touched = torch.zeros_like(got, dtype=torch.bool)
        touched[..., 2:4, 3:5] = True
        assert torch.equal(got.isnan(), touched)
        torch.testing.assert_close(got[~touched], clean[~touched])


class TestHere:
    """Where kernels are not interpreted."""

    __test__ = not INTERPRETED

    @pytest.mark.skipif(
        Version(triton.__version__) < Version("3.7"),
        reason="before, the interpreter cannot count by arrays of NumPy 2.4",
    )
    def test_interpreted(self) -> None:
        """The tests of values of this file, in a process where kernels are interpreted."""
        interpreting.check(__file__)
