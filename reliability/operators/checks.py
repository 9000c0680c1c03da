"""What is wrong with a call: each backend against the reference in float64, and each way to call against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from evaluation import TOLERANCES, Inputs, evaluate, same_bits
from operation import Operation
from torch import Tensor

from .cases import FLOATS, REFUSALS, Case, is_of_tests

# A backend may be so much further from the truth than the reference in the same dtype.
WORSE = 8
# What a dtype rounds, in parts of what it is allowed to be wrong.
EPSILON = torch.finfo(torch.float32).eps / TOLERANCES[torch.float32]
TINY = torch.finfo(torch.float32).tiny
# On GPUs these give finite numbers beside NaN, as docs/reliability.md says.
LOSE_NAN = {"mind_ssc", "soft_argmin"}
# A choice of these between two that are as good as each other is rounding's: how often that is disturbed to see it.
CHOOSE = {"coupled_convex": 32}


def check(case: Case) -> tuple[str, list[str]]:
    """Make the call of a case.

    Returns:
        What became of it, "refused" or "compared", and a line for each fault.
    """
    operation, inputs, options = _prepared(case)
    before = _snapshot(inputs)
    results: dict[str, Inputs] = {}
    faults, refusals = [], []
    for backend in operation.backends:
        try:
            results[backend] = evaluate(operation, inputs, options, backend=backend)
        except REFUSALS as error:
            refusals.append(str(error))
        except Exception as error:
            faults += _unexpected(backend, error)
    if not same_bits(_snapshot(inputs), before):
        faults.append("inputs are modified")
    if refusals and results:
        faults.append(f"refused by some backends alone: {refusals[0]}")
    if refusals and _is_good(case):
        faults.append(f"refused: {refusals[0]}")
    if "reference" not in results or refusals or faults:
        return "refused" if refusals else "compared", faults
    beyond = [name for name, t in inputs.items() if not t.double().isfinite().all()]
    if set(beyond) & set(operation.finite) or _is_reflected_from_afar(inputs, options):
        return "not finite", faults
    exact = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    truth = evaluate(operation, exact, options, backend="reference")
    spreads = bool(beyond) or _is_near_the_end(inputs)
    for backend, got in results.items():
        if backend == "reference" or (backend == "cuda" and beyond and case.operation in LOSE_NAN):
            continue
        got = _outputs(got) if beyond else got
        lines = differences(got, truth, results["reference"], spreads=spreads)
        if lines:
            rounded = _rounded(operation, inputs, options, truth) if case.dtype == "float64" else results["reference"]
            lines = differences(got, truth, rounded, spreads=spreads, sizes=_sizes(case, exact))
        if lines and (draws := CHOOSE.get(case.operation)):
            chosen = _chosen(operation, inputs, options, draws)
            got = {name: torch.where(chosen[name], value, truth[name].to(value.dtype)) for name, value in got.items()}
            lines = differences(got, truth, results["reference"], spreads=spreads)
        faults += [f"{backend}: {line}" for line in lines]
    if beyond:
        return "not finite", faults
    try:
        faults += [f"{case.way}: {line}" for line in WAYS[case.way](operation, inputs, options)]
    except Exception as error:
        faults += _unexpected(case.way, error)
    return "compared", faults


def _prepared(case: Case) -> tuple[Operation, Inputs, dict[str, Any]]:
    """The operation, with the derivatives that its inputs have; these; and all other arguments."""
    arguments, options = case.arguments()
    inputs = {name: value for name, value in arguments.items() if _is_plain(value)}
    options |= {name: value for name, value in arguments.items() if name not in inputs}
    operation = case.described
    operation = replace(
        operation,
        differentiable=tuple(n for n in operation.differentiable if n in inputs and inputs[n].is_floating_point()),
        # In 16 bits, second derivatives are sums of rounded numbers, which may cancel.
        twice=operation.twice and all(t.dtype.itemsize > 2 for t in inputs.values()),
    )
    return operation, inputs, options


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_quantized)


def _snapshot(inputs: Inputs) -> Inputs:
    return {name: t.resolve_neg().clone(memory_format=torch.contiguous_format) for name, t in inputs.items()}


def _is_good(case: Case) -> bool:
    """Whether the call is one that the description of the operation makes, in another dtype at most."""
    return case.dtype in FLOATS and not (case.options or case.junk or case.channels) and case.batch != 0


def _unexpected(where: str, error: Exception) -> list[str]:
    """An error that is not documented."""
    if is_of_tests(error):
        return []
    return [f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]


def _is_near_the_end(inputs: Inputs) -> bool:
    """Whether sums of some numbers of the inputs may be more than their dtype, or float32, holds; or one by the sum of
    weights, of which gradients are multiples."""
    floats = {name: t for name, t in inputs.items() if t.is_floating_point()}
    weights = _largest(floats["weight"]) if "weight" in floats else 1.0
    return weights < 1e3 * TINY or any(_largest(t) > torch.finfo(t.dtype).max / 1e3 for t in floats.values())


def _largest(t: Tensor) -> float:
    """Of the finite numbers, by magnitude."""
    wide = t.double()
    return float(torch.where(wide.isfinite(), wide, 0).abs().max())


def _is_reflected_from_afar(inputs: Inputs, options: dict[str, Any]) -> bool:
    """Whether places may be so far away that rounding decides where they are reflected to."""
    far = any(_largest(t) > 1e5 for t in inputs.values())
    return far and "reflection" in (options.get("padding"), options.get("padding_mode"))


def _outputs(results: Inputs) -> Inputs:
    """Without the gradients: whether one is 0 or NaN beside a voxel that is not finite is no backend's promise."""
    return {name: value for name, value in results.items() if name.startswith("output")}


def _rounded(operation: Operation, inputs: Inputs, options: dict[str, Any], truth: Inputs) -> Inputs:
    """What a reference that is rounded to float64 may be: as much less wrong than float32's as float64 is finer."""
    rough = {name: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
    errors = evaluate(operation, rough, options, backend="reference")
    finer = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return {name: value + (errors[name].double() - value) * finer for name, value in truth.items()}


def _chosen(operation: Operation, inputs: Inputs, options: dict[str, Any], draws: int) -> dict[str, Tensor]:
    """Where the reference has one result for all that the inputs may have been before they were rounded."""
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(draws):
        disturbed = {}
        for name, t in inputs.items():
            wide = t.double()
            noise = torch.rand(t.shape, generator=generator, dtype=torch.float64) - 0.5
            disturbed[name] = wide + wide * noise * 4 * torch.finfo(t.dtype).eps
        seen.append(evaluate(operation, disturbed, options, backend="reference"))
    return {name: torch.stack([one[name] for one in seen]).std(0) < 1e-6 for name in seen[0]}


def _sizes(case: Case, inputs: Inputs) -> dict[str, float]:
    """How large the results of a case are, by name, with inputs of the same magnitude that are not constant."""
    plain = replace(case, values={}, layouts={}, way="call")
    operation, others, options = _prepared(plain)
    exact = {name: t.double() if t.is_floating_point() else t for name, t in others.items()}
    results = evaluate(operation, exact, options, backend="reference")
    largest = max(_largest(t) * t.numel() ** 0.5 for t in inputs.values())
    times = max([1.0, *(_largest(t) / _largest(others[name]) for name, t in inputs.items() if others[name].any())])
    rounded = dict.fromkeys(results, 4 * largest * EPSILON)
    return {n: max(float(value.norm()) * times**2, rounded[n]) for n, value in results.items()}


def differences(
    got: Inputs, truth: Inputs, rounded: Inputs, *, spreads: bool = False, sizes: dict[str, float] | None = None
) -> list[str]:
    """A line for each result that is further from the truth than its dtype, and the reference in it, allow.

    Nothing may be finite that is not; and nothing else not finite, unless what is not `spreads` by sums. `sizes` are
    norms that errors are measured by where those of the truth are smaller.
    """
    lines = []
    for name, value in got.items():
        g, exact, reference = value.double(), truth[name].double(), rounded[name].double()
        if g.shape != exact.shape:
            lines.append(f"{name}: shape {tuple(g.shape)}, not {tuple(exact.shape)}")
            continue
        held = truth[name].to(value.dtype).double()  # inf, where the dtype does not hold the truth
        finite = exact.isfinite(), held.isfinite(), reference.isfinite()
        if lost := int((g.isfinite() & ~(finite[0] | finite[2])).sum()):
            lines.append(f"{name}: finite in {lost} of {g.numel()} numbers that are not")
        if made := not spreads and int((~g.isfinite() & finite[0] & finite[1] & finite[2]).sum()):
            lines.append(f"{name}: not finite in {made} of {g.numel()} numbers that are")
        known = g.isfinite() & exact.isfinite() & reference.isfinite()
        size, error, allowed = (float(t[known].norm()) for t in (exact, g - exact, reference - exact))
        size = max(size, WORSE * (sizes or {}).get(name, 0.0))
        tolerance = TOLERANCES.get(value.dtype, 0.0)
        tiny = torch.finfo(value.dtype).tiny * g.numel() ** 0.5 if value.is_floating_point() else 0.0
        if not error <= tolerance * size + WORSE * allowed + tiny:
            lines.append(f"{name}: relative error {error / size if size else error:.1e} in {value.dtype}")
    return lines


def _threads(operation: Operation, inputs: Inputs, options: dict[str, Any]) -> list[str]:
    """The same bits for any number of threads."""
    one = evaluate(operation, inputs, options)
    torch.set_num_threads(2)
    try:
        two = evaluate(operation, inputs, options)
    finally:
        torch.set_num_threads(1)
    return [f"{name}: other bits with 2 threads" for name in one if not same_bits({name: one[name]}, {name: two[name]})]


def _vmap(operation: Operation, inputs: Inputs, options: dict[str, Any]) -> list[str]:
    """As much as call by call."""
    names = list(inputs)

    def one(*tensors: Tensor) -> Any:
        return operation.function(**dict(zip(names, tensors, strict=True)), **options)

    def looped(**given: Tensor) -> Any:
        results = [one(*tensors) for tensors in zip(*given.values(), strict=True)]
        several = isinstance(results[0], tuple)
        return tuple(map(torch.stack, zip(*results, strict=True))) if several else torch.stack(results)

    def mapped(**given: Tensor) -> Any:
        return torch.vmap(one)(*given.values())

    stacked = {name: torch.stack([t, t.flip(0) if t.is_floating_point() else t]) for name, t in inputs.items()}
    got, expected = (evaluate(operation, stacked, {}, function=f) for f in (mapped, looped))
    return differences(got, expected, expected)


def _compiled(compiler: str) -> Callable[[Operation, Inputs, dict[str, Any]], list[str]]:
    def check(operation: Operation, inputs: Inputs, options: dict[str, Any]) -> list[str]:
        torch._dynamo.reset()
        once = replace(operation, twice=False)  # PyTorch does not compile second derivatives
        compiled = torch.compile(operation.function, fullgraph=True, dynamic=True, backend=compiler)
        got = evaluate(once, inputs, options, function=compiled)
        expected = evaluate(once, inputs, options)
        return differences(got, expected, expected)

    return check


WAYS: dict[str, Callable[[Operation, Inputs, dict[str, Any]], list[str]]] = {
    "call": lambda *_: [],
    "threads": _threads,
    "vmap": _vmap,
    "aot_eager": _compiled("aot_eager"),
    "inductor": _compiled("inductor"),
}
