"""How Triton kernels are launched: blocks, strides, widths of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

# Voxels and warps of a program: two voxels a thread in float32 and one in float64 leave registers for the taps, slopes
# and corners of all.
BLOCK = 256
WARPS = 4


def launch(kernel: Any, programs: int, arguments: Sequence[Any], **constants: Any) -> None:
    """Run a kernel on the device of its first tensor."""
    first = next(a for a in flat(arguments) if isinstance(a, Tensor))
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        kernel[(programs,)](*arguments, **constants, num_warps=WARPS, enable_fp_fusion=True)


def flat(arguments: Sequence[Any]) -> list[Any]:
    """The arguments, and those in tuples among them."""
    return [b for a in arguments for b in (flat(a) if isinstance(a, tuple) else [a])]


def real_of(dtype: torch.dtype) -> tl.dtype:
    """What numbers of a dtype are computed in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def block_of(dtype: torch.dtype) -> int:
    """Voxels of a program that computes in that dtype's arithmetic."""
    return BLOCK // 2 if dtype == torch.float64 else BLOCK


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

    wide = any(t is not None and max(reach(t), t.numel()) > 2**31 - 1 - BLOCK for t in tensors)
    return tl.int64 if wide else tl.int32
