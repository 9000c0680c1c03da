"""Evaluates an operation, with all its gradients, and compares what comes out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from operation import Operation, device_of
from samples import Sample
from torch import Tensor

import l2rfast

# Relative errors against the float64 reference; for the 16-bit types the rounding of the result.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "channels_last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "sliced": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda t: t.narrow(-1, 0, 1).expand(t.shape),
}

Inputs = dict[str, Tensor]


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


def weights_of(tensor: Tensor, period: int) -> Tensor:
    """Weights for a combination of its numbers, exact in every dtype."""
    values = torch.arange(tensor.numel(), device=tensor.device) % period - period // 2
    return (values / 4).to(tensor.dtype).view(tensor.shape)


def evaluate(
    operation: Operation,
    inputs: Inputs,
    options: dict[str, Any],
    *,
    backend: str | None = None,
    function: Callable[..., Any] | None = None,
    layout: Callable[[Tensor], Tensor] = unchanged,
) -> Inputs:
    """The outputs, and the gradients of a combination of them to every differentiable input, by name.

    Where second derivatives are promised, also the gradients of a combination of these gradients, to the inputs and
    to the weights. Inputs and weights have the given layout. All is computed where the backend computes, and returned
    on the CPU.
    """
    with l2rfast.backend(backend) if backend else nullcontext():
        given = placed(operation, {n: t.to(device_of(backend or "reference")) for n, t in inputs.items()}, layout)
        result = (function or operation.function)(**given, **options)
        outputs = result if isinstance(result, tuple) else (result,)
        named = {f"output {i}": output for i, output in enumerate(outputs)}
        if operation.differentiable:
            ends = [output for output in outputs if output.requires_grad]
            weights = [layout(weights_of(end, 11)).detach().requires_grad_(operation.twice) for end in ends]
            starts = {name: given[name] for name in operation.differentiable}
            gradients = gradients_of(ends, weights, starts, operation.twice)
            named |= {f"gradient to {name}": gradient for name, gradient in gradients.items()}
            if operation.twice:
                ends = [gradient for gradient in gradients.values() if gradient.requires_grad]
                starts |= {f"weights {i}": w for i, w in enumerate(weights)}
                second = gradients_of(ends, [layout(weights_of(end, 7)) for end in ends], starts, False)
                named |= {f"second gradient to {name}": gradient for name, gradient in second.items()}
    return {name: value.detach().cpu() for name, value in named.items()}


def placed(operation: Operation, inputs: Inputs, layout: Callable[[Tensor], Tensor] = unchanged) -> Inputs:
    """The inputs as leaves of a graph."""
    return {n: layout(t).detach().requires_grad_(n in operation.differentiable) for n, t in inputs.items()}


def gradients_of(ends: list[Tensor], weights: list[Tensor], starts: Inputs, recorded: bool) -> Inputs:
    values = torch.autograd.grad(ends, list(starts.values()), weights, create_graph=recorded, materialize_grads=True)
    return dict(zip(starts, values, strict=True))


def positional(operation: Operation, sample: Sample) -> Callable[..., Any]:
    """The operation as a function of tensors alone."""
    return lambda *tensors: operation.function(**dict(zip(sample.inputs, tensors, strict=True)), **sample.options)


def leaves(operation: Operation, sample: Sample, backend: str) -> list[Tensor]:
    return list(placed(operation, {n: t.to(device_of(backend)) for n, t in sample.inputs.items()}).values())


def disagreements(got: Inputs, expected: Inputs, where: str) -> list[str]:
    """A line for everything that is further from what is expected than its dtype allows."""
    lines = []
    for name, value in got.items():
        assert value.shape == expected[name].shape, f"{where}, {name}: {value.shape}, not {expected[name].shape}"
        reference = expected[name].double()
        if not torch.equal(value.isnan(), reference.isnan()):
            lines.append(f"{where}, {name}: NaN elsewhere in {value.dtype}")
        known = ~reference.isnan()
        difference = float((value.double() - reference)[known].norm())
        error = difference / float(reference[known].norm()) if difference else 0.0
        if not error <= TOLERANCES[value.dtype]:
            lines.append(f"{where}, {name}: relative error {error:.1e} in {value.dtype}")
    return lines


def same_bits(a: Inputs, b: Inputs) -> bool:
    bits = [{name: t.flatten().contiguous().view(torch.uint8) for name, t in inputs.items()} for inputs in (a, b)]
    return all(torch.equal(bits[0][name], bits[1][name]) for name in a | b)
