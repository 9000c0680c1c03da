"""What holds for every operation, written once over `operators.OPERATIONS`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import native
import numpy as np
import pytest
import torch
from evaluation import LAYOUTS, TOLERANCES, Inputs, disagreements, evaluate, leaves, positional, same_bits
from operators import OPERATIONS, Operation, Sample, device_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import l2rfast
from l2rfast import _native
from l2rfast._dispatch import OPERATORS, Operator
from l2rfast.errors import NotDifferentiableError


def pairs(operations: list[Operation]) -> list[Any]:
    """Each with each of its backends that can run here."""
    return [pytest.param(o, b, id=f"{o.name}-{b}") for o in operations for b in o.backends]


DIFFERENTIABLE = [o for o in OPERATIONS if o.differentiable]
PACKAGE = Path(l2rfast.__file__).parent
# Instruction sets that the C++ kernels are built for as well.
OTHERS = [name for name in ("default", "avx2") if PACKAGE.joinpath(f"_cpp_{name}.so").exists()]
TYPED = [
    pytest.param(o, b, dtype, id=f"{o.name}-{b}-{str(dtype).removeprefix('torch.')}")
    for o in OPERATIONS
    for dtype in TOLERANCES
    for b in [*o.backends, *(OTHERS if dtype == torch.float32 and "cpp" in o.backends else [])]
    if (b, dtype) != ("reference", torch.float64)  # the definition itself
]
each_operation_and_backend = pytest.mark.parametrize(("operation", "backend"), pairs(OPERATIONS))
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)


def enough(samples: list[Any], backend: str) -> list[Any]:
    """All, but where Triton interprets its kernels, and takes seconds for a call, a few small ones."""
    return samples[2:20:9] if backend == "triton" and device_of(backend) == "cpu" else samples


@pytest.fixture
def deterministic_on_gpus() -> Iterator[None]:
    """For what depends on the bits, where there is a GPU: its sums are taken in any order otherwise."""
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    yield
    torch.use_deterministic_algorithms(False)


def in_dtype(operation: Operation, dtype: torch.dtype) -> Operation:
    """In 16 bits, second derivatives are sums of rounded numbers, which may cancel."""
    return operation if dtype.itemsize > 2 else replace(operation, twice=False)


def typed(operation: Operation, dtype: torch.dtype) -> list[tuple[Sample, Inputs]]:
    """Samples of an operation, and their inputs in a dtype."""
    # Gradients of means over many voxels are below the smallest float16.
    samples = operation.samples + (operation.big if dtype.itemsize > 2 else [])
    return [(sample, {name: t.to(dtype) for name, t in sample.inputs.items()}) for sample in samples]


Problems = list[tuple[Sample, Inputs, Inputs]]


@pytest.fixture(scope="module")
def truth() -> Callable[[Operation, torch.dtype], Problems]:
    """These, and what the reference makes of them in float64."""

    @lru_cache(maxsize=1)  # the backends come one after the other
    def of(name: str, dtype: torch.dtype) -> Problems:
        operation = in_dtype(next(o for o in OPERATIONS if o.name == name), dtype)
        problems = []
        for sample, inputs in typed(operation, dtype):
            exact = {name: t.double() for name, t in inputs.items()}
            problems.append((sample, inputs, evaluate(operation, exact, sample.options, backend="reference")))
        return problems

    return lambda operation, dtype: of(operation.name, dtype)


def save_results(instruction_set: str, folder: str) -> None:
    """What the C++ library that this process has makes of all samples in float32: of each operation a file."""
    assert instruction_set == _native.INSTRUCTION_SET
    native.poison_memory()
    for operation in (o for o in OPERATIONS if "cpp" in o.backends):
        results = [evaluate(operation, i, s.options, backend="cpp") for s, i in typed(operation, torch.float32)]
        torch.save(results, Path(folder, operation.name))


@pytest.fixture(scope="module")
def of_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Operation], list[Inputs]]:
    """The same, of the library for an instruction set, which PyTorch's own variable chooses in another process."""

    @cache
    def folder(name: str) -> Path:
        tests, path = Path(__file__).parent, tmp_path_factory.mktemp(name)
        script = "import sys, test_operators; test_operators.save_results(*sys.argv[1:])"
        environment = {"ATEN_CPU_CAPABILITY": name, "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent)))}
        subprocess.run([sys.executable, "-c", script, name, path], env=os.environ | environment, cwd=tests, check=True)
        return path

    def results(name: str, operation: Operation) -> list[Inputs]:
        file = folder(name) / operation.name
        values: list[Inputs] = torch.load(file)
        file.unlink()  # of hundreds of megabytes
        return values

    return results


@pytest.mark.parametrize(("operation", "backend", "dtype"), TYPED)
def test_values_and_gradients_are_those_of_the_reference(
    operation: Operation,
    backend: str,
    dtype: torch.dtype,
    truth: Callable[[Operation, torch.dtype], Problems],
    of_library: Callable[[str, Operation], list[Inputs]],
) -> None:
    wrong = []
    problems = enough(truth(operation, dtype), backend)
    if backend in OTHERS:
        results = of_library(backend, operation)
    else:
        of_dtype = in_dtype(operation, dtype)
        results = [evaluate(of_dtype, inputs, sample.options, backend=backend) for sample, inputs, _ in problems]
    for (sample, _, expected), got in zip(problems, results, strict=True):
        assert {value.dtype for value in got.values()} == {dtype}
        wrong += disagreements(got, expected, sample.name)
    assert not wrong


@pytest.mark.parametrize("layout", LAYOUTS)
@each_operation_and_backend
def test_strides_do_not_matter(operation: Operation, backend: str, layout: str) -> None:
    def arranged(t: Tensor) -> Tensor:
        return LAYOUTS[layout](t) if t.ndim > 2 else t

    def packed(t: Tensor) -> Tensor:
        return arranged(t).clone(memory_format=torch.contiguous_format)

    wrong = []
    for sample in operation.some():
        got, expected = (
            evaluate(operation, sample.inputs, sample.options, backend=backend, layout=form)
            for form in (arranged, packed)
        )
        wrong += disagreements(got, expected, sample.name)
    assert not wrong


@pytest.mark.parametrize(("operation", "backend"), pairs([o for o in OPERATIONS if o.broadcasts]))
def test_a_batch_of_one_stands_for_all(operation: Operation, backend: str) -> None:
    def expanded(**given: Any) -> Any:
        whole = {name: t.expand(2, *t.shape[1:]) if isinstance(t, Tensor) else t for name, t in given.items()}
        return operation.function(**whole)

    wrong = []
    for sample in operation.broadcasts:
        got, expected = (
            evaluate(operation, sample.inputs, sample.options, backend=backend, function=function)
            for function in (None, expanded)
        )
        wrong += disagreements(got, expected, sample.name)
    assert not wrong


@each_operation_and_backend
def test_inputs_are_not_modified(operation: Operation, backend: str) -> None:
    for sample in enough(operation.samples, backend):
        inputs = {name: t.clone() for name, t in sample.inputs.items()}
        evaluate(operation, inputs, sample.options, backend=backend)
        assert same_bits(inputs, sample.inputs), sample.name


@pytest.mark.usefixtures("deterministic_on_gpus")
@pytest.mark.parametrize(("operation", "backend"), pairs(DIFFERENTIABLE))
def test_gradcheck(operation: Operation, backend: str) -> None:
    """Along random directions: gradients are compared with the reference number by number, and it with autograd."""
    checks = [torch.autograd.gradcheck, *([torch.autograd.gradgradcheck] if operation.twice else [])]
    for sample in enough(operation.samples, backend):
        for check in checks if sample.smooth else []:
            with l2rfast.backend(backend):
                tensors = leaves(operation, sample, backend)
                assert check(positional(operation, sample), tensors, fast_mode=True), sample.name


@pytest.mark.parametrize("operation", [o for o in DIFFERENTIABLE if not o.twice], ids=lambda o: o.name)
def test_second_derivatives_that_are_not_promised_are_an_error(operation: Operation) -> None:
    for sample in operation.some():
        with pytest.raises(NotDifferentiableError, match="derivative"):
            torch.autograd.gradgradcheck(positional(operation, sample), leaves(operation, sample, "cpp"))


@pytest.mark.parametrize("operation", DIFFERENTIABLE, ids=lambda o: o.name)
def test_backward_is_the_derivative_of_the_reference(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sample for sample in operation.samples if sample.smooth]
    written = [evaluate(operation, sample.inputs, sample.options, backend="reference") for sample in samples]

    def seen_through(self: Operator, *args: Any) -> Any:
        result = self._reference(*args)  # a value, or a value and its gradients, or several values
        several = isinstance(result, tuple) and self.name != "soft_argmin"
        return (result[0], *(gradient.detach() for gradient in result[1:])) if several else result

    monkeypatch.setattr(Operator, "__call__", seen_through)
    wrong = []
    for sample, got in zip(samples, written, strict=True):
        wrong += disagreements(got, evaluate(operation, sample.inputs, sample.options), sample.name)
    assert not wrong


class Calls(TorchDispatchMode):
    """Records the calls of registered operators: (name, arguments by name)."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "l2rfast":
            names = [argument.name for argument in func._schema.arguments]
            self.made.append((func._opname, dict(zip(names, args, strict=True))))
        return func(*args, **(kwargs or {}))


# The flag that asks an operator for the gradient to an input of the public function.
FLAGS = [
    *[("warp", "image", "to_image"), ("warp", "disp", "to_disp")],
    *[("spline_warp", "image", "to_image"), ("spline_warp", "disp", "to_disp")],
    *[("warp_many", "image", "to_image"), ("warp_many", "labels", "to_image"), ("warp_many", "disp", "to_disp")],
    *[("grid_sample", "input", "to_image"), ("grid_sample", "grid", "to_grid")],
    *[("affine_warp", "image", "to_image"), ("affine_warp", "matrix", "to_matrix")],
    *[("compose", "outer", "to_image"), ("compose", "inner", "to_disp")],
    *[("local_ncc", "a", "to_a"), ("local_ncc", "b", "to_b")],
    *[("joint_histogram", "a", "to_a"), ("joint_histogram", "b", "to_b")],
]


@pytest.mark.parametrize("recording", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(("name", "wanted", "flag"), FLAGS)
def test_only_the_gradients_asked_for_are_made(name: str, wanted: str, flag: str, recording: bool) -> None:
    (operation,) = (o for o in OPERATIONS if o.name == name)
    for sample in operation.some():
        inputs = {n: t.detach().requires_grad_(n == wanted) for n, t in sample.inputs.items()}
        with Calls() as calls, torch.set_grad_enabled(recording):
            result = operation.function(**inputs, **sample.options)
            if recording:
                sum(r.sum() for r in (result if isinstance(result, tuple) else [result])).backward()
        made = [f for _, call in calls.made for f, value in call.items() if f.startswith("to_") and value]
        assert made == ([flag] * made.count(flag) if recording else [])


@pytest.fixture(scope="module")
def calls() -> dict[str, list[tuple[Any, ...]]]:
    """For every registered operator, arguments that the public functions give it."""
    made: dict[str, list[tuple[Any, ...]]] = {}
    for operation in OPERATIONS:
        for sample in operation.some():
            with Calls() as recorded:
                evaluate(operation, sample.inputs, sample.options)
            for name, call in recorded.made:
                made.setdefault(name, []).append(tuple(call.values()))
    return made


# All of PyTorch's but its comparison with a compiled call, which test_compile makes: from PyTorch 2.14 on it asks
# copies of the inputs for their gradients, and is warned by itself that these never have one.
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, calls: dict[str, list[tuple[Any, ...]]]) -> None:
    differentiable = name == "warp_backward" or any(o.name == name and o.differentiable for o in OPERATIONS)

    def fresh(value: Any) -> Any:
        if isinstance(value, list):
            return [fresh(v) for v in value]
        if isinstance(value, Tensor):
            return value.detach().requires_grad_(differentiable and value.requires_grad)
        return value

    def ndim(args: tuple[Any, ...]) -> int:
        """Of an image or a field, whatever else there is."""
        return max(t.ndim for arg in args for t in (arg if isinstance(arg, list) else [arg]) if isinstance(t, Tensor))

    by_ndim = {ndim(args): args for args in calls[name]}
    assert len(by_ndim) >= 2
    for args in by_ndim.values():
        torch.library.opcheck(getattr(torch.ops.l2rfast, name).default, tuple(map(fresh, args)), test_utils=CHECKS)


@each_operation
def test_compile(operation: Operation) -> None:
    torch._dynamo.reset()
    operation = replace(operation, twice=False)  # PyTorch does not compile second derivatives
    compiled = torch.compile(operation.function, fullgraph=True, dynamic=True, backend="aot_eager")
    for sample in operation.some():
        got = evaluate(operation, sample.inputs, sample.options, function=compiled)
        assert same_bits(got, evaluate(operation, sample.inputs, sample.options)), sample.name


@pytest.mark.usefixtures("deterministic_on_gpus")
@each_operation_and_backend
def test_autocast_changes_nothing(operation: Operation, backend: str) -> None:
    """Autocast is for what gains by it: matrix products. Positions and sums of squares lose too much."""
    for sample in operation.some():
        inputs = {name: t.float() for name, t in sample.inputs.items()}
        expected = evaluate(operation, inputs, sample.options, backend=backend)
        with torch.autocast(device_of(backend), dtype=torch.bfloat16):
            got = evaluate(operation, inputs, sample.options, backend=backend)
        assert {value.dtype for value in got.values()} == {torch.float32}
        assert same_bits(got, expected), sample.name


@each_operation
def test_vmap(operation: Operation) -> None:
    wrong = []
    for sample in operation.some():
        one = positional(operation, sample)

        def looped(one: Callable[..., Any] = one, **inputs: Tensor) -> Any:
            results = [one(*tensors) for tensors in zip(*inputs.values(), strict=True)]
            several = isinstance(results[0], tuple)
            return tuple(map(torch.stack, zip(*results, strict=True))) if several else torch.stack(results)

        def mapped(one: Callable[..., Any] = one, **inputs: Tensor) -> Any:
            return torch.vmap(one)(*inputs.values())

        stacked = {name: torch.stack([t, t.flip(0), t / 2]) for name, t in sample.inputs.items()}
        got, expected = (evaluate(operation, stacked, {}, function=f) for f in (mapped, looped))
        wrong += disagreements(got, expected, sample.name)  # autograd may add in another order
    assert not wrong


@each_operation
def test_same_bits_for_any_number_of_threads_and_every_time(operation: Operation) -> None:
    wrong = []
    for sample in operation.big:
        inputs = {name: t.float() for name, t in sample.inputs.items()}
        expected = evaluate(operation, inputs, sample.options)
        for threads in (2, 3, 3):
            torch.set_num_threads(threads)
            got = evaluate(operation, inputs, sample.options)
            same = [same_bits({name: got[name]}, {name: expected[name]}) for name in got]
            wrong += [f"{sample.name}, {name}: {threads} threads" for name, s in zip(got, same, strict=True) if not s]
        torch.set_num_threads(1)
    assert not wrong


def of_numpy(value: Any) -> Any:
    """A number as one of NumPy's types, or an array of it; a tuple of numbers as an array."""
    if isinstance(value, tuple) and isinstance(value[0], str):
        return value
    of_its_own = {int: np.int64, float: np.array, tuple: np.array}
    return of_its_own.get(type(value), lambda same: same)(value)


@each_operation
def test_options_may_be_numbers_of_numpy(operation: Operation) -> None:
    kinds = {tuple(type(v) for v in s.options.values()): s for s in reversed(operation.samples)}
    for sample in kinds.values():
        options = {name: of_numpy(value) for name, value in sample.options.items()}
        got, expected = (evaluate(operation, sample.inputs, o) for o in (options, sample.options))
        assert same_bits(got, expected), sample.name


@pytest.mark.parametrize(
    ("operation", "changes", "begins"),
    [pytest.param(o, *e, id=f"{o.name}-{'-'.join(e[0])}-{i}") for o in OPERATIONS for i, e in enumerate(o.errors)],
)
def test_wrong_arguments_are_named(operation: Operation, changes: dict[str, Any], begins: str) -> None:
    first = operation.samples[0]
    with pytest.raises(l2rfast.InputError) as caught:
        operation.function(**(first.inputs | first.options | changes))
    assert str(caught.value).startswith(begins)
