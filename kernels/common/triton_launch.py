"""How Triton kernels are launched: blocks, strides, widths of integers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Voxels and warps of a program."""

    block: int
    warps: int


# Two voxels a thread in float32 and one in float64 leave registers for the taps, slopes and corners of all.
USUAL = Shape(256, 4)
BLOCK = USUAL.block  # where partial sums are laid out by it, in every shape
# The shapes that bench/tune.py found to be the fastest: {GPU: {operator: [block, warps]}}.
TUNED = Path(__file__).with_name("triton_tuned.json")

_shape: ContextVar[Shape | None] = ContextVar("shape", default=None)


def shape() -> Shape:
    """In which kernels are launched now."""
    return _shape.get() or USUAL


@contextmanager
def shaped(other: Shape) -> Iterator[None]:
    """Has kernels launched in another shape."""
    token = _shape.set(other)
    try:
        yield
    finally:
        _shape.reset(token)


@cache
def tuned_shape(operator: str, gpu: str) -> Shape:
    """What was found for that GPU, or what is usual."""
    found = json.loads(TUNED.read_text()).get(gpu, {}).get(operator)
    return Shape(*found) if found else USUAL


def in_tuned_shape(operator: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of an operator, its kernels launched in the shape that is the fastest on the GPU of its tensors."""

    def run(*args: Any) -> Any:
        device = next(a for a in flat(args) if isinstance(a, Tensor)).device
        if device.type != "cuda" or _shape.get() is not None:
            return function(*args)
        with shaped(tuned_shape(operator, torch.cuda.get_device_name(device))):
            return function(*args)

    return run


def launch(kernel: Any, programs: int, arguments: Sequence[Any], **constants: Any) -> None:
    """Run a kernel on the device of its first tensor."""
    first = next(a for a in flat(arguments) if isinstance(a, Tensor))
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        kernel[(programs,)](*arguments, **constants, num_warps=shape().warps, enable_fp_fusion=True)


def flat(arguments: Sequence[Any]) -> list[Any]:
    """The arguments, and those in tuples and lists among them."""
    return [b for a in arguments for b in (flat(a) if isinstance(a, tuple | list) else [a])]


def real_of(dtype: torch.dtype) -> tl.dtype:
    """What numbers of a dtype are computed in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def block_of(dtype: torch.dtype) -> int:
    """Voxels of a program that computes in that dtype's arithmetic."""
    block = shape().block
    return block // 2 if dtype == torch.float64 else block


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides, 0 along an axis of size one."""
    return tuple(0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def strided(tensor: Tensor | None) -> tuple[Tensor | None, tuple[int, ...] | None]:
    """A tensor and its strides, as kernels take them."""
    return tensor, None if tensor is None else strides(tensor)


def index_of(*tensors: Tensor | None) -> tl.dtype:
    """The dtype of offsets into these tensors: 64-bit if one of them needs it."""

    def reach(tensor: Tensor) -> int:
        return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))

    block = max(BLOCK, shape().block)
    wide = any(t is not None and max(reach(t), t.numel()) > 2**31 - 1 - block for t in tensors)
    return tl.int64 if wide else tl.int32
