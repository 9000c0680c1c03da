"""One operation, several backends: how a call finds its kernel.

An `Operator` is made once per operation from its reference function, whose signature is its schema. It
registers ``torch.ops.l2rfast.<name>`` and looks up, when it is called, who computes:

====================  ==========================================================================
``cpp``               ``torch.ops.l2rfast_cpp.<name>``, registered by ``kernels/<op>/cpu.cpp``
``cuda``              ``torch.ops.l2rfast_cuda.<name>``, registered by ``kernels/<op>/cuda.cu``
``triton``            the function ``<name>`` of ``kernels/<op>/triton.py``
``reference``         the reference function itself, on any device
====================  ==========================================================================

The first that exists for the device of the input runs. Triton runs on GPUs; when it interprets its kernels
(``TRITON_INTERPRET=1``, for tests) it can be forced on the CPU. Nothing is chosen by trial and error: a kernel
that exists takes every input that the operation's wrapper lets through.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from . import _native
from .errors import BackendError, NotDifferentiableError

BACKENDS = ("cpp", "cuda", "triton", "reference")
_NATIVE = {"cpp": "CPU", "cuda": "CUDA"}  # the compiled ones and their dispatch keys

OPERATORS: dict[str, Operator] = {}

_forced: str | None = None
_warned = False


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force every operation inside the block to run on one backend.

    Args:
        name: ``"reference"``, ``"cpp"``, ``"triton"`` or ``"cuda"``.

    Raises:
        BackendError: the name is unknown; or, from the operation itself, the backend does not have the
            operation or does not run on the input's device. There is no silent fallback.

    The choice holds for the whole process, backward threads included: it is meant for tests and
    measurements, not for concurrent use of several backends.
    """
    global _forced
    if name not in BACKENDS:
        raise BackendError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


class Operator:
    """A registered torch operator with its backends.

    Args:
        reference: the definition, in PyTorch; parameter and return annotations give the schema.
        fake: returns empty tensors of the right shape, dtype and device (for ``torch.compile``).
        setup_context, backward: the autograd formula, as in ``torch.library.register_autograd``. Without one a
            derivative through the operator raises.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        *,
        fake: Callable[..., Any],
        backward: Callable[..., Any] | None = None,
        setup_context: Callable[..., Any] | None = None,
    ) -> None:
        self.name = reference.__name__
        self._reference = reference
        schema = torch.library.infer_schema(reference, mutates_args=())
        for native in _NATIVE:
            torch.library.define(f"l2rfast_{native}::{self.name}", schema)
        # torch.library.custom_op would do the same, but its first call imports the compiler: most of a second.
        qualified = f"l2rfast::{self.name}"
        torch.library.define(qualified, schema)
        torch.library.impl(qualified, "CompositeExplicitAutograd", self._run)
        torch.library.register_fake(qualified, fake)
        torch.library.register_vmap(qualified, self._vmap)
        torch.library.register_autograd(qualified, backward or self._no_derivative, setup_context=setup_context)
        self._op = getattr(torch.ops.l2rfast, self.name)
        OPERATORS[self.name] = self

    def __call__(self, *args: Any) -> Any:
        return self._op(*args)

    def backends(self) -> list[str]:
        """The backends that have this operation on this machine, best first."""
        return [name for name in BACKENDS if self._has(name)]

    def chosen(self, device: str) -> str:
        """The backend that runs this operation on a device type (``"cpu"``, ``"cuda"``)."""
        if _forced is None:
            automatic = ("cpp", "reference") if device == "cpu" else ("cuda", "triton", "reference")
            return next(name for name in automatic if self._has(name) and _runs_on(name, device))
        if not _runs_on(_forced, device):
            raise BackendError(f"backend: {_forced!r} was forced, but the input of {self.name} is on {device}")
        if not self._has(_forced):
            raise BackendError(
                f"backend: {_forced!r} was forced, but {self.name} has only {', '.join(self.backends())} here"
            )
        return _forced

    def _has(self, name: str) -> bool:
        if name in _NATIVE:
            qualified = f"l2rfast_{name}::{self.name}"
            return bool(torch._C._dispatch_has_kernel_for_dispatch_key(qualified, _NATIVE[name]))
        return name == "reference" or self._triton is not None

    @cached_property
    def _triton(self) -> Callable[..., Any] | None:
        """The function of that name in the triton.py beside the reference; None where one of them is absent."""
        module = self._reference.__module__.removesuffix("reference") + "triton"
        if find_spec("triton") is None or find_spec(module) is None:
            return None
        function: Callable[..., Any] | None = getattr(importlib.import_module(module), self.name, None)
        if function is None:
            return None
        launch = importlib.import_module("l2rfast.kernels.common.triton_launch")
        result: Callable[..., Any] = launch.in_tuned_shape(self.name, function)
        return result

    def _run(self, *args: Any) -> Any:
        first = next(arg[0] if isinstance(arg, list) else arg for arg in args if isinstance(arg, Tensor | list))
        chosen = self.chosen(first.device.type)
        if chosen == "triton":
            assert self._triton is not None
            return self._triton(*args)
        if chosen == "reference":
            if first.device.type == "cpu" and _native.INSTRUCTION_SET is None and _forced is None:
                _warn_once()
            return self._reference(*args)
        return getattr(getattr(torch.ops, f"l2rfast_{chosen}"), self.name)(*args)

    def _no_derivative(self, *_: Any) -> Any:
        raise NotDifferentiableError(
            f"{self.name}: has no derivative; detach its inputs, or call it under torch.no_grad()"
        )

    def _vmap(self, info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        """Call by call: these kernels are parallel inside already."""

        def item(i: int, arg: Any, dim: Any) -> Any:
            if isinstance(arg, list):
                return [item(i, a, d) for a, d in zip(arg, dim, strict=True)] if isinstance(dim, list) else arg
            return arg if dim is None else arg.select(dim, i)

        results = [
            self._op(*(item(i, arg, dim) for arg, dim in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = [torch.stack(column) for column in zip(*results, strict=True)]
        return type(results[0])(stacked), type(results[0])([0] * len(stacked))


def _runs_on(name: str, device: str) -> bool:
    if name == "triton":
        return device == "cuda" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    return name == "reference" or _NATIVE[name].lower() == device


def needs_gradient(value: Tensor) -> bool:
    """Whether autograd will ask for a gradient to a tensor, also from inside ``torch.vmap``."""
    while torch._C._functorch.is_batchedtensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return torch.is_grad_enabled() and value.requires_grad


def once_differentiable(name: str) -> None:
    """Called in a backward that has no derivative itself: raises where one is being recorded."""
    if torch.is_grad_enabled():
        raise NotDifferentiableError(f"{name}: has no second derivative; call backward without create_graph")


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"l2rfast has no C++ kernels here and runs on the slower reference backend; {_native.HOW_TO_BUILD}",
            stacklevel=2,
        )
