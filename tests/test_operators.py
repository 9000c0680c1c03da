"""What holds for every operation, written once over `operators.OPERATIONS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from operators import OPERATIONS, Operation, Sample
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.utils._python_dispatch import TorchDispatchMode

import l2rfast
from l2rfast._dispatch import OPERATORS, Operator

# Relative errors against the float64 reference; for the 16-bit types the rounding of the result.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}

Inputs = dict[str, Tensor]

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = [pytest.param(o, b, id=f"{o.name}-{b}") for o in OPERATIONS for b in o.backends]
TYPED = [
    pytest.param(*p.values, dtype, id=f"{p.id}-{str(dtype).removeprefix('torch.')}")
    for p in EVERY
    for dtype in TOLERANCES
    if (p.values[1], dtype) != ("reference", torch.float64)  # the definition itself
]
each_operation_and_backend = pytest.mark.parametrize(("operation", "backend"), EVERY)
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
each_differentiable = pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if o.differentiable], ids=lambda o: o.name
)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "channels_last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "sliced": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda t: t.narrow(-1, 0, 1).expand(t.shape),
}


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


def evaluate(
    operation: Operation,
    inputs: Inputs,
    options: dict[str, Any],
    *,
    function: Callable[..., Any] | None = None,
    layout: Callable[[Tensor], Tensor] = unchanged,
) -> Inputs:
    """The outputs, and the gradients of a combination of them to every differentiable input, by name.

    The weights of the combination, in the given layout, are exact in every dtype.
    """
    given = {name: t.detach().requires_grad_(name in operation.differentiable) for name, t in inputs.items()}
    result = (function or operation.function)(**given, **options)
    outputs = result if isinstance(result, tuple) else (result,)
    named = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    if operation.differentiable:
        ends = [output for output in outputs if output.requires_grad]
        weights = [layout(((torch.arange(e.numel()) % 11 - 5) / 4).to(e.dtype).view(e.shape)) for e in ends]
        starts = [given[name] for name in operation.differentiable]
        gradients = torch.autograd.grad(ends, starts, weights, materialize_grads=True)
        named |= {f"gradient to {n}": g for n, g in zip(operation.differentiable, gradients, strict=True)}
    return named


def positional(operation: Operation, sample: Sample) -> Callable[..., Any]:
    """The operation as a function of tensors alone."""
    return lambda *tensors: operation.function(**dict(zip(sample.inputs, tensors, strict=True)), **sample.options)


def leaves(operation: Operation, sample: Sample) -> list[Tensor]:
    return [t.detach().requires_grad_(name in operation.differentiable) for name, t in sample.inputs.items()]


def disagreements(got: Inputs, expected: Inputs, where: str) -> list[str]:
    """A line for everything that is further from what is expected than its dtype allows."""
    lines = []
    for name, value in got.items():
        assert value.shape == expected[name].shape, f"{where}, {name}: {value.shape}, not {expected[name].shape}"
        reference = expected[name].double()
        difference = float((value.double() - reference).norm())
        error = difference / float(reference.norm()) if difference else 0.0
        if not error <= TOLERANCES[value.dtype]:
            lines.append(f"{where}, {name}: relative error {error:.1e} in {value.dtype}")
    return lines


def same_bits(a: Inputs, b: Inputs) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize(("operation", "backend", "dtype"), TYPED)
def test_values_and_gradients_are_those_of_the_reference(
    operation: Operation, backend: str, dtype: torch.dtype
) -> None:
    wrong = []
    # Gradients of means over many voxels are below the smallest float16.
    for sample in operation.samples + (operation.big if dtype.itemsize > 2 else []):
        inputs = {name: t.to(dtype) for name, t in sample.inputs.items()}
        with l2rfast.backend(backend):
            got = evaluate(operation, inputs, sample.options)
        with l2rfast.backend("reference"):
            expected = evaluate(operation, {name: t.double() for name, t in inputs.items()}, sample.options)
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
        with l2rfast.backend(backend):
            got, expected = (
                evaluate(operation, {n: form(t) for n, t in sample.inputs.items()}, sample.options, layout=form)
                for form in (arranged, packed)
            )
        wrong += disagreements(got, expected, sample.name)
    assert not wrong


@each_operation_and_backend
def test_inputs_are_not_modified(operation: Operation, backend: str) -> None:
    for sample in operation.samples:
        inputs = {name: t.clone() for name, t in sample.inputs.items()}
        with l2rfast.backend(backend):
            evaluate(operation, inputs, sample.options)
        assert same_bits(inputs, sample.inputs), sample.name


@pytest.mark.parametrize(("operation", "backend"), [p for p in EVERY if p.values[0].differentiable])
def test_gradcheck(operation: Operation, backend: str) -> None:
    for sample in operation.samples:
        if not sample.smooth:
            continue
        with l2rfast.backend(backend):
            # The reference is slow to difference number by number, and is compared with autograd's below.
            fast = backend == "reference"
            assert torch.autograd.gradcheck(positional(operation, sample), leaves(operation, sample), fast_mode=fast)


@each_differentiable
def test_backward_is_the_derivative_of_the_reference(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sample for sample in operation.samples if sample.smooth]
    with l2rfast.backend("reference"):
        written = [evaluate(operation, sample.inputs, sample.options) for sample in samples]

    def seen_through(self: Operator, *args: Any) -> Any:
        result = self._reference(*args)  # a value, or a value and its gradients
        return (result[0], *(gradient.detach() for gradient in result[1:])) if isinstance(result, tuple) else result

    monkeypatch.setattr(Operator, "__call__", seen_through)
    wrong = []
    for sample, got in zip(samples, written, strict=True):
        wrong += disagreements(got, evaluate(operation, sample.inputs, sample.options), sample.name)
    assert not wrong


@each_differentiable
def test_second_derivatives_are_right_or_an_error(operation: Operation) -> None:
    for sample in operation.some():
        try:
            assert torch.autograd.gradgradcheck(positional(operation, sample), leaves(operation, sample))
        except GradcheckError:
            raise
        except RuntimeError:  # none is promised, and saying so is right
            continue


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


@pytest.mark.parametrize("recording", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(
    ("name", "wanted"), [("warp", "image"), ("warp", "disp"), ("local_ncc", "a"), ("local_ncc", "b")]
)
def test_only_the_gradients_asked_for_are_made(name: str, wanted: str, recording: bool) -> None:
    (operation,) = (o for o in OPERATIONS if o.name == name)
    for sample in operation.some():
        inputs = {n: t.detach().requires_grad_(n == wanted) for n, t in sample.inputs.items()}
        with Calls() as calls, torch.set_grad_enabled(recording):
            result = operation.function(**inputs, **sample.options)
            if recording:
                result.sum().backward()
        made = {flag for _, call in calls.made for flag, value in call.items() if flag.startswith("to_") and value}
        assert made == ({f"to_{wanted}"} if recording else set())


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


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, calls: dict[str, list[tuple[Any, ...]]]) -> None:
    by_ndim = {args[0].ndim: args for args in calls[name]}
    assert len(by_ndim) == 2
    differentiable = any(o.name == name and o.differentiable for o in OPERATIONS)
    for args in by_ndim.values():
        fresh = (
            a.detach().requires_grad_(differentiable and a.requires_grad) if isinstance(a, Tensor) else a for a in args
        )
        torch.library.opcheck(getattr(torch.ops.l2rfast, name).default, tuple(fresh))


@each_operation
def test_compile(operation: Operation) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(operation.function, fullgraph=True, backend="aot_eager")
    for sample in operation.some():
        got = evaluate(operation, sample.inputs, sample.options, function=compiled)
        assert same_bits(got, evaluate(operation, sample.inputs, sample.options)), sample.name


@each_operation_and_backend
def test_autocast_changes_nothing(operation: Operation, backend: str) -> None:
    """Autocast is for what gains by it: matrix products. Positions and sums of squares lose too much."""
    for sample in operation.big:
        inputs = {name: t.float() for name, t in sample.inputs.items()}
        with l2rfast.backend(backend):
            expected = evaluate(operation, inputs, sample.options)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                got = evaluate(operation, inputs, sample.options)
        assert {value.dtype for value in got.values()} == {torch.float32}
        assert same_bits(got, expected), sample.name


@each_operation
def test_vmap(operation: Operation) -> None:
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
        assert same_bits(got, expected), sample.name


@each_operation
def test_same_bits_for_any_number_of_threads(operation: Operation) -> None:
    for sample in operation.big:
        inputs = {name: t.float() for name, t in sample.inputs.items()}
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(evaluate(operation, inputs, sample.options))
        assert all(same_bits(results[0], other) for other in results[1:]), sample.name


@pytest.mark.parametrize(
    ("operation", "changes", "begins"),
    [pytest.param(o, *e, id=f"{o.name}-{'-'.join(e[0])}-{i}") for o in OPERATIONS for i, e in enumerate(o.errors)],
)
def test_wrong_arguments_are_named(operation: Operation, changes: dict[str, Any], begins: str) -> None:
    first = operation.samples[0]
    with pytest.raises(l2rfast.InputError) as caught:
        operation.function(**(first.inputs | first.options | changes))
    assert str(caught.value).startswith(begins)
