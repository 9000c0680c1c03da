"""One operation, several backends: how a call finds its kernel.

An `Operator` is made once per operation from its reference function, whose signature is its schema. It
registers ``torch.ops.l2rfast.<name>`` and looks up, when it is called, who computes:

====================  ==========================================================================
``cpp``               ``torch.ops.l2rfast_cpp.<name>``, registered by ``kernels/<op>/cpu.cpp``
``cuda``              ``torch.ops.l2rfast_cuda.<name>``, registered by ``kernels/<op>/cuda.cu``
``reference``         the reference function itself, on any device
====================  ==========================================================================

The first that exists for the device of the input runs. Nothing is chosen by trial and error: a kernel
that exists takes every input that the operation's wrapper lets through.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import _native
from .errors import BackendError, NotDifferentiableError

BACKENDS = ("cpp", "cuda", "reference")
_DEVICE = {"cpp": "cpu", "cuda": "cuda"}

OPERATORS: dict[str, Operator] = {}

_forced: str | None = None
_warned = False


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force every operation inside the block to run on one backend.

    Args:
        name: ``"reference"``, ``"cpp"`` or ``"cuda"``.

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
        for native in _DEVICE:
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
        return [name for name in BACKENDS if name == "reference" or self._has_kernel(name)]

    def chosen(self, device: str) -> str:
        """The backend that runs this operation on a device type (``"cpu"``, ``"cuda"``)."""
        if _forced is None:
            return next(b for b in self.backends() if _DEVICE.get(b, device) == device)
        if _forced != "reference" and _DEVICE[_forced] != device:
            raise BackendError(f"backend: {_forced!r} was forced, but the input of {self.name} is on {device}")
        if _forced not in self.backends():
            raise BackendError(
                f"backend: {_forced!r} was forced, but {self.name} has only {', '.join(self.backends())} here"
            )
        return _forced

    def _has_kernel(self, backend: str) -> bool:
        key = _DEVICE[backend].upper()
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"l2rfast_{backend}::{self.name}", key))

    def _run(self, *args: Any) -> Any:
        device = next(arg for arg in args if isinstance(arg, Tensor)).device.type
        chosen = self.chosen(device)
        if chosen == "reference":
            if device == "cpu" and _native.INSTRUCTION_SET is None and _forced is None:
                _warn_once()
            return self._reference(*args)
        return getattr(getattr(torch.ops, f"l2rfast_{chosen}"), self.name)(*args)

    def _no_derivative(self, *_: Any) -> Any:
        raise NotDifferentiableError(
            f"{self.name}: has no derivative; detach its inputs, or call it under torch.no_grad()"
        )

    def _vmap(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """Call by call: these kernels are parallel inside already."""
        results = [
            self._op(
                *(
                    a.select(d, i) if isinstance(a, Tensor) and d is not None else a
                    for a, d in zip(args, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(column) for column in zip(*results, strict=True)), (0,) * len(results[0])


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
