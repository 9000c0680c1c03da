"""What the host does for a GPU that is not there, and a CUDA graph of steps on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from l2rfast import _dispatch
from l2rfast.methods import replay

# What looks at values: the host waits for them, or the shape of the result depends on them.
LOOKS = {
    *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"),
    *("unique_consecutive", "_linalg_check_errors"),
}
READS = ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")


class Watch(TorchDispatchMode):
    """Lists in ``seen`` what would make the host wait for the device, or cannot be recorded in a CUDA graph."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        result = func(*args, **(kwargs or {}))
        moved = name in ("_to_copy", "copy_") and len({t.device for t in (args[0], result, *args[1:2]) if is_tensor(t)})
        if (name in LOOKS and on_device(args[0])) or moved > 1 or (name.startswith("index") and by_mask(args)):
            self.seen.append(name)
        return result


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def on_device(value: Tensor, *_: Any, **__: Any) -> bool:
    """Whether the host would wait for what is read of a tensor."""
    return value.device.type != "cpu"


def by_mask(args: Sequence[Any]) -> bool:
    """Whether the indices among the arguments are those of what a mask selects."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return on_device(args[0]) and any(is_tensor(t) and t.dtype in (torch.bool, torch.uint8) for t in indices)


@contextmanager
def watched(mode: Watch | None = None) -> Iterator[list[str]]:
    """What is seen of the code inside, below and above the dispatcher."""
    mode = mode or Watch()

    def noted(name: str, function: Callable[..., Any], host: Callable[..., bool]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if host(*args, **kwargs):
                mode.seen.append(name)
            return function(*args, **kwargs)

        return run

    def from_host(*args: Any, device: Any = None, **_: Any) -> bool:
        place = device or (args[0].device if is_tensor(args[0]) else "cpu")
        return torch.device(place).type != "cpu"

    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(Tensor, name, noted(name, getattr(Tensor, name), on_device))
        for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
            patch.setattr(owner, name, noted(name, getattr(owner, name), from_host))
        with mode:
            yield mode.seen


class _Host(Watch):
    """Runs the Python code of operators as well: of Triton where there is some, else the reference."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "l2rfast":
            return super().__torch_dispatch__(func, types, args, kwargs)
        with self:
            return _dispatch.OPERATORS[func._schema.name.partition("::")[2]]._run(*args)


@contextmanager
def gpu() -> Iterator[list[str]]:
    """Inside, tensors on "meta", which have no values, are as a GPU's are to Python code; kernels are not launched."""
    with pytest.MonkeyPatch.context() as patch, watched(_Host()) as seen:
        patch.setattr(_dispatch, "_runs_on", lambda name, device: name in ("triton", "reference"))
        for operator in _dispatch.OPERATORS.values():
            operator.chosen("meta")  # loads what there is in Triton
        for name, module in list(sys.modules.items()):
            if name.startswith("l2rfast.kernels.") and hasattr(module, "launch"):
                patch.setattr(module, "launch", lambda *_, **__: None)
        yield seen


class Graph(TorchDispatchMode):
    """A CUDA graph's stand-in on the CPU: what was computed while it was recorded is computed again by a replay, from
    the same tensors into the same ones. What the host decided stays as it was, and what it looked at is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:  # a GPU only records; here it has been computed
            return
        with torch.no_grad():
            for func, args, kwargs, result in self.calls:
                again = tree_leaves(func(*args, **kwargs))
                for old, new in zip(tree_leaves(result), again, strict=True):
                    if is_tensor(old):
                        old.copy_(new)


@contextmanager
def recorded_on_the_cpu() -> Iterator[list[Graph]]:
    """Steps are recorded inside, into the graphs of this list."""
    graphs: list[Graph] = []

    def made() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "RECORDED", {"cpu"})
        patch.setattr(torch.cuda, "CUDAGraph", made)
        patch.setattr(torch.cuda, "graph", lambda graph: graph)
        yield graphs
