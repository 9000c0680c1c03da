"""What a public operation is to the tests, in the manner of PyTorch's OpInfo, and what no argument may be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from samples import Sample, Sizes, noise
from torch import Tensor

from l2rfast._dispatch import OPERATORS, _runs_on

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

Errors = Iterator[tuple[dict[str, Any], str]]


def device_of(backend: str) -> str:
    """The type of the devices that a backend computes on; of a GPU where it needs one, whether or not one is here."""
    return "cpu" if _runs_on(backend, "cpu") else "cuda"


def runnable(operator: str, devices: tuple[str, ...] = DEVICES) -> list[str]:
    """The backends of an operator that can run here, on devices of these types."""
    return [backend for backend in OPERATORS[operator].backends() if device_of(backend) in devices]


@dataclass(frozen=True)
class Operation:
    """A public function of tensors and options.

    Attributes:
        space: its calls on images of given sizes, from which `reliability.operators` makes others.
        samples: calls small enough to differentiate by every number.
        big: calls of the sizes BIG.
        errors: changes to the arguments of the first sample, and how the message that they give begins.
        differentiable: the inputs that gradients go to.
        twice: whether second derivatives are promised.
        finite: the inputs whose numbers have to be finite.
        made_of: the operator that does the work, where none has the name of the function.
    """

    function: Callable[..., Any]
    space: Callable[[Sizes], Iterator[Sample]]
    samples: list[Sample]
    big: list[Sample]
    errors: list[tuple[dict[str, Any], str]]
    differentiable: tuple[str, ...] = ()
    twice: bool = False
    finite: tuple[str, ...] = ()
    made_of: str = ""

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def backends(self) -> list[str]:
        return runnable(self.made_of or self.name)

    @property
    def broadcasts(self) -> list[Sample]:
        """Those of one image for two fields, or the reverse."""
        return [s for s in self.samples if {t.shape[0] for t in s.inputs.values()} == {1, 2}]

    def some(self) -> list[Sample]:
        """One sample for each combination of dimensions and batches: for what tells nothing new for more."""
        by_kind = {}
        for sample in reversed(self.samples):
            if sample.smooth:
                by_kind[tuple((t.ndim, t.shape[0]) for t in sample.inputs.values())] = sample
        return list(by_kind.values())


def not_tensors(*names: str) -> Errors:
    """What no tensor argument may be: of another type, flat, empty, integer, complex, of 8 bits, sparse, quantized."""
    good = noise(2, 2, 5, 4)
    others = [good[0, 0], good[:0], good.long(), good.cdouble(), good.to(torch.float8_e4m3fn), good.to_sparse()]
    for name, value in product(names, (None, *others, quantized(good))):
        yield {name: value}, f"{name}: expected"


def quantized(values: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch gives up quantized tensors
        return torch.quantize_per_tensor(values.float(), 0.1, 0, torch.qint8)


def not_integers(**minimums: int) -> Errors:
    for name, minimum in minimums.items():
        for value in (minimum - 1, 2.5, "3", None, True, torch.eye(3).to_sparse()):
            yield {name: value}, f"{name}: expected an integer >= {minimum}"
        for value in (2**16, 2**63):
            yield {name: value}, f"{name}: expected at most 65535"


def not_flags(*names: str) -> Errors:
    for name, value in product(names, (2, "yes", None, noise(2, 2), torch.eye(3).to_sparse())):
        yield {name: value}, f"{name}: expected True or False"


def not_blocks(*sizes: tuple[int, ...]) -> Errors:
    """No blocks of a field or an image of two axes; of those sizes neither what is larger."""
    for value in (0, 1.5, "2", None, (1, 1, 1)):
        yield {"blocks": value}, "blocks: expected an integer >= 1"
    for size in sizes:
        yield {"blocks": (size[0] + 1, 1)}, f"blocks: expected none larger than the grid, of size {size}"


def not_one_of(**allowed: tuple[str, ...]) -> Errors:
    for name, values in allowed.items():
        yield {name: "quintic"}, f"{name}: expected one of {', '.join(values)}"


def not_alike(first: str, second: str, like: Tensor) -> Errors:
    """What two tensors may not differ in."""
    yield from not_tensors(first, second)
    yield {second: noise(*like.shape[:-1], 9)}, f"{first}, {second}: expected one shape"
    yield {second: like.float()}, f"{first}, {second}: expected one dtype"
    yield {second: like.to("meta")}, f"{first}, {second}: expected one device"
