"""Argument checks shared by the operations: each raises `InputError` that names the argument."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

_LARGEST = sys.float_info.max
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # PyTorch's others hold no sums
LONGEST = 65_535  # of what is repeated, or counts voxels: what is beyond is no choice, and does not end
_ARRAYS = (np.generic, np.ndarray, Tensor)  # a tuple: torch.compile cannot follow the union of these


def plain(value: Any) -> Any:
    """A number of any type, or an array or tensor of numbers, as Python's number, or tuple of them; what is neither as
    it is. Sequences item by item.
    """
    if isinstance(value, _ARRAYS) and (not isinstance(value, Tensor) or _is_dense(value)):
        value = value.tolist()
    elif not isinstance(value, int | float) and isinstance(value, Real):
        value = operator.index(value) if isinstance(value, Integral) else float(value)
    return tuple(plain(item) for item in value) if isinstance(value, tuple | list) else value


def _is_dense(value: Tensor) -> bool:
    """Whether it has numbers that are read one by one."""
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)


def is_integer(value: Any) -> bool:
    """Of what `plain` gives; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Of what `plain` gives, finite in float64; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def tensor(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else value.layout
        raise InputError(f"{name}: expected a dense tensor, got one that is {kind}")


def is_floating(value: Tensor) -> bool:
    """Of a dtype that operations compute in, or from."""
    return value.dtype in _FLOATING


_SHAPES = {1: "(N, C, W)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}


def image(name: str, value: Tensor, *, floating: bool = True, dims: Sequence[int] = (2, 3)) -> int:
    """Check an (N, C, *spatial) tensor and return its number of spatial dimensions, one of ``dims``."""
    tensor(name, value)
    if value.ndim - 2 not in dims:
        shapes = " or ".join(_SHAPES[ndim] for ndim in dims)
        raise InputError(f"{name}: expected shape {shapes}, got {tuple(value.shape)}")
    if value.numel() == 0:
        raise InputError(f"{name}: expected at least one element, got shape {tuple(value.shape)}")
    if floating and not is_floating(value):
        raise InputError(f"{name}: expected a floating-point dtype, got {value.dtype}")
    if value.is_complex() or (value.is_floating_point() and not is_floating(value)):
        raise InputError(f"{name}: expected a real dtype, got {value.dtype}")
    return value.ndim - 2


def field(name: str, value: Tensor) -> int:
    """Check an (N, ndim, *spatial) displacement field and return ndim."""
    ndim = image(name, value)
    if value.shape[1] != ndim:
        raise InputError(
            f"{name}: expected one channel per spatial axis, shape (N, {ndim}, ...), got {tuple(value.shape)}"
        )
    return ndim


def same(names: str, a: Tensor, b: Tensor, *, shape: bool = True) -> None:
    """Check that two tensors agree in device and dtype and, unless told otherwise, in shape."""
    if a.device != b.device:
        raise InputError(f"{names}: expected one device, got {a.device} and {b.device}")
    if a.dtype != b.dtype:
        raise InputError(f"{names}: expected one dtype, got {a.dtype} and {b.dtype}")
    if shape and a.shape != b.shape:
        raise InputError(f"{names}: expected one shape, got {tuple(a.shape)} and {tuple(b.shape)}")


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def at_least(name: str, value: int, minimum: int, most: float = LONGEST) -> int:
    """Check an integer and return it as Python's."""
    number = plain(value)
    if not is_integer(number) or number < minimum:
        raise InputError(f"{name}: expected an integer >= {minimum}, got {value!r}")
    if number > most:
        raise InputError(f"{name}: expected at most {most}, got {value!r}")
    return int(number)


def flag(name: str, value: bool) -> bool:
    """Check what is on or off and return it as Python's."""
    one = plain(value)
    if not isinstance(one, int) or one not in (0, 1):
        raise InputError(f"{name}: expected True or False, got {value!r}")
    return bool(one)


def numbers(name: str, values: Sequence[float], *, positive: bool = False) -> list[float]:
    """Check a sequence of numbers and return it as Python's."""
    several = plain(values)
    if not isinstance(several, tuple) or not all(is_number(one) and (one > 0 or not positive) for one in several):
        raise InputError(f"{name}: expected {'positive' if positive else 'finite'} numbers, got {values!r}")
    return [float(number) for number in several]


def not_negative(name: str, value: float, most: float = math.inf) -> float:
    """Check a number and return it as Python's."""
    number = plain(value)
    if not is_number(number) or number < 0:
        raise InputError(f"{name}: expected a number >= 0, got {value!r}")
    if number > most:
        raise InputError(f"{name}: expected at most {most}, got {value!r}")
    return float(number)


def each_axis(value: Any, ndim: int) -> list[Any]:
    """What there is for each axis, or the one for all, so often."""
    values = plain(value)
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else [values] * ndim


def per_axis(name: str, value: int | Sequence[int], ndim: int, minimum: int) -> list[int]:
    """Check an integer, or one for each axis, and return the latter."""
    values = each_axis(value, ndim)
    if len(values) != ndim or not all(is_integer(v) and v >= minimum for v in values):
        raise InputError(f"{name}: expected an integer >= {minimum}, or {ndim} of them, got {value!r}")
    if max(values) > LONGEST:
        raise InputError(f"{name}: expected at most {LONGEST}, got {value!r}")
    return values


def blocks(value: int | Sequence[int], size: Sequence[int]) -> list[int]:
    """Check how many voxels a block of a grid of that size has along each axis, and return it for each."""
    sides = per_axis("blocks", value, len(size), 1)
    if any(side > n for side, n in zip(sides, size, strict=True)):
        raise InputError(f"blocks: expected none larger than the grid, of size {tuple(size)}, got {value!r}")
    return sides


def cost(name: str, value: Tensor, ndim: int | None = None) -> int:
    """Check an (N, *search, *spatial) tensor and return its number of spatial dimensions."""
    tensor(name, value)
    if value.ndim not in ((5, 7) if ndim is None else (1 + 2 * ndim,)) or not is_floating(value):
        raise InputError(
            f"{name}: expected a floating (N, *search, *spatial) tensor, got {value.dtype} {tuple(value.shape)}"
        )
    if value.numel() == 0:
        raise InputError(f"{name}: expected at least one element, got shape {tuple(value.shape)}")
    return (value.ndim - 1) // 2


def positive(name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A number, which may be learnable, as a tensor () beside another."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.numel() != 1 or not is_floating(value):
            raise InputError(f"{name}: expected one floating number, got {value.dtype} {tuple(value.shape)}")
        if value.device != like.device:
            raise InputError(f"{name}: expected a tensor on {like.device}, got one on {value.device}")
        return value.reshape(())
    number = plain(value)
    if not is_number(number) or number <= 0:
        raise InputError(f"{name}: expected a positive number, got {value!r}")
    dtype = arithmetic_dtype(like)
    if number > (most := torch.finfo(dtype).max):
        raise InputError(f"{name}: expected at most {most:.3g}, which {dtype} holds, got {value!r}")
    return torch.full((), float(number), dtype=dtype, device=like.device)


def arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is, else float32: what sums are accumulated in."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
