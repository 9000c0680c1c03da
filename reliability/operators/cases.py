"""Random calls of every operation, each described by plain data that makes the same call again anywhere."""

from __future__ import annotations

import math
import os
import random
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from evaluation import LAYOUTS, Inputs, placed, weights_of
from operators import OPERATIONS, Operation
from samples import Sample, Size
from torch import Tensor

from l2rfast.errors import BackendError, InputError, NotDifferentiableError

REFUSALS = (InputError, NotDifferentiableError, BackendError)

TESTS = str(Path(__file__).parent.parent.parent / "tests")
NAMES = [operation.name for operation in OPERATIONS]
BY_NAME = dict(zip(NAMES, OPERATIONS, strict=True))

FLOATS = ("float32", "float64", "float16", "bfloat16")
# What no floating input may be, or only where nothing is interpolated.
OTHERS = ("uint8", "int8", "int16", "int32", "int64", "bool", "complex64", "float8_e4m3fn", "uint16", "uint64")
LABELS = ("image", "labels", "input")  # which may be integers in some modes

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 31, 37)
VOXELS = 300  # of an image

# Where memory of 2^31 elements, of which nothing is touched but the image, makes offsets no 32 bits hold.
FAR = 2**31

STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    **LAYOUTS,
    "offset": lambda t: torch.cat([t.new_zeros(3), t.flatten(), t.new_zeros(5)])[3 : 3 + t.numel()].view(t.shape),
    "stepped": lambda t: torch.stack([t, t], 1)[:, 0],
    "reversed": lambda t: t.permute(*reversed(range(t.ndim))).contiguous().permute(*reversed(range(t.ndim))),
    "one image": lambda t: t[:1].expand(t.shape),
    "one channel": lambda t: t[:, :1].expand(t.shape),
    "one number": lambda t: t.flatten()[:1].expand(t.numel()).view(1).expand(t.shape) if t.numel() == 1 else _one(t),
    "negated": lambda t: torch._neg_view(-t) if t.dtype.is_floating_point and t.dtype.itemsize > 1 else t,
    "far": lambda t: _far(t),
}

# Put into an input: at one place, at some, everywhere.
VALUES: dict[str, float] = {
    **{"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "-0": -0.0, "0": 0.0, "1": 1.0, "1000": 1000.25},
    **{"1e38": 1e38, "-1e38": -1e38, "1e30": 1e30, "1e-30": 1e-30, "1e-38": 1e-38, "denormal": 1e-44, "60000": 6e4},
}

# What stands in place of an argument that is wrong.
JUNK: dict[str, Callable[[Any], Any]] = {
    "None": lambda _: None,
    "text": lambda _: "3",
    "empty text": lambda _: "",
    "nan": lambda _: math.nan,
    "inf": lambda _: math.inf,
    "-1": lambda _: -1,
    "0": lambda _: 0,
    "0.5": lambda _: 0.5,
    "2^40": lambda _: 2**40,
    "-2^63": lambda _: -(2**63),
    "2^64": lambda _: 2**64,
    "1e300": lambda _: 1e300,
    "True": lambda _: True,
    "[]": lambda _: [],
    "list": lambda value: [value],
    "number": lambda _: torch.tensor(3.0),
    "empty": lambda value: _tensor(value)[:0],
    "no axis": lambda value: _tensor(value)[..., :0],
    "flat": lambda value: _tensor(value).flatten(),
    "deeper": lambda value: _tensor(value)[..., None],
    "wider": lambda value: torch.cat([_tensor(value)] * 2, -1),
    "batched": lambda value: torch.cat([_tensor(value)] * 3, 0),
    "channels": lambda value: torch.cat([_tensor(value)] * 2, 1),
    "meta": lambda value: _tensor(value).to("meta"),
    "sparse": lambda value: _tensor(value).detach().to_sparse(),
    "csr": lambda value: torch.eye(3).to_sparse_csr(),
    "mkldnn": lambda _: torch.zeros(2, 2, 5, 4).to_mkldnn(),
    "nested": lambda value: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(2, 4)], layout=torch.jagged),
    "quantized": lambda value: torch.quantize_per_tensor(_tensor(value).detach().float(), 0.1, 0, torch.qint8),
    **{dtype: lambda value, d=dtype: _tensor(value).to(getattr(torch, d)) for dtype in (*FLOATS, *OTHERS)},
}


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) and value.ndim > 1 else torch.zeros(2, 2, 5, 4)


def _one(t: Tensor) -> Tensor:
    return t.flatten()[0].expand(t.shape) if t.numel() else t


def _far(t: Tensor) -> Tensor:
    """Its last items beyond what 32 bits count, in memory that is taken page by page as it is used."""
    room = torch.empty(FAR + t.numel(), dtype=t.dtype)
    axis = next((axis for axis, n in enumerate(t.shape) if n > 1), 0)
    strides, packed = list(t.stride()), t.contiguous()
    strides[:] = packed.stride()
    strides[axis] = max(FAR // max(t.shape[axis] - 1, 1), 1)
    return room.as_strided(t.shape, strides).copy_(packed)


@dataclass(frozen=True)
class Case:
    """A call of an operation, or of several at once.

    Attributes:
        operation: its name in `operators.OPERATIONS`.
        size: of an image.
        sample: which of the calls that `Operation.space` makes of that size.
        batch, channels: so many instead of the sample's where that many are given.
        dtype: of all inputs, or where integers are possible of the labels, beside float32.
        options: instead of the sample's.
        layouts: from `STRIDES`, by input.
        values: special ones from `VALUES`, by input: which, and every how manyth element is one.
        junk: from `JUNK`, by argument.
        way: how the operation is called: "call", "vmap", "threads", "aot_eager" or "inductor".
    """

    operation: str
    size: Size
    sample: int = 0
    batch: int | None = None
    channels: int | None = None
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)
    values: dict[str, tuple[str, int]] = field(default_factory=dict)
    junk: dict[str, str] = field(default_factory=dict)
    way: str = "call"

    @property
    def described(self) -> Operation:
        return BY_NAME[self.operation]

    def inputs(self, dtype: torch.dtype | None = None) -> Inputs:
        """The tensors in the dtype of the case; the same numbers in another one, if that is given and they are no
        integers.
        """
        of_case = getattr(torch, self.dtype)
        inputs = {name: self._resized(t) for name, t in _sample(self).inputs.items()}
        made = {}
        for name, t in inputs.items():
            own = torch.float32 if self.dtype in OTHERS and name not in LABELS else of_case
            t = _with(t, *self.values[name]) if name in self.values and t.numel() else t.clone()
            t = (t.abs() * 40).to(own) if own.is_floating_point is False and not own.is_complex else t.to(own)
            t = STRIDES[self.layouts[name]](t) if name in self.layouts and t.ndim > 2 and t.numel() else t
            made[name] = t.to(dtype) if dtype and own.is_floating_point else t
        return made

    def arguments(self, dtype: torch.dtype | None = None) -> tuple[Inputs, dict[str, Any]]:
        """The tensors, and the options."""
        inputs, options = self.inputs(dtype), _sample(self).options | self.options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what PyTorch has not finished, or gives up
            for name, kind in self.junk.items():
                given: dict[str, Any] = inputs if name in inputs else options
                given[name] = JUNK[kind](given[name])
        return inputs, options

    def _resized(self, t: Tensor) -> Tensor:
        """Of another batch and number of channels, of fields none: these have one for each axis."""
        if self.batch is not None and t.ndim > 1 and t.shape[0] != 1:
            t = t[torch.arange(self.batch) % t.shape[0]]
        if self.channels is not None and t.ndim == len(self.size) + 2 and t.shape[1] != len(self.size):
            t = t[:, torch.arange(self.channels) % t.shape[1]]
        return t


def _with(t: Tensor, value: str, every: int) -> Tensor:
    flat = t.flatten().clone()
    flat[flat.numel() // 2 % every :: every] = VALUES[value]
    return flat.view(t.shape)


@cache
def _made(operation: str, size: Size) -> list[Sample]:
    return list(BY_NAME[operation].space({len(size): [size]}))


def _sample(case: Case) -> Sample:
    made = _made(case.operation, case.size)
    return made[case.sample % len(made)]


def drawn(seed: int, index: int) -> Case:
    """The case of that number of that seed."""
    rng = random.Random(f"{seed} {index}")
    case = Case(NAMES[index % len(NAMES)], _size(rng), rng.randrange(1000))
    inputs, options = _sample(case).inputs, _sample(case).options
    return replace(
        case,
        batch=rng.choice((0, 1, 1, 3, 5)) if rng.random() < 0.25 else None,
        channels=rng.choice((1, 2, 4, 5, 8, 16, 17)) if rng.random() < 0.25 else None,
        dtype=rng.choice(OTHERS) if rng.random() < 0.05 else rng.choices(FLOATS, (6, 2, 1, 1))[0],
        options={n: _other(rng, case, n, value) for n, value in options.items() if rng.random() < 0.25},
        layouts={n: _layout(rng) for n in inputs if rng.random() < 0.5},
        values={rng.choice([*inputs]): (rng.choice([*VALUES]), rng.choice((1, 2, 7, 10**9)))}
        if rng.random() < 0.25
        else {},
        junk={rng.choice([*inputs, *options]): rng.choice([*JUNK])} if rng.random() < 0.12 else {},
        way=rng.choices(("call", "vmap", "threads", "aot_eager", "inductor"), (84, 10, 4, 2, 0.05))[0],
    )


def _size(rng: random.Random) -> Size:
    """Tiny, of primes, thin, or anything, and of not too many voxels."""
    ndim = rng.choice((2, 3))
    kind = rng.choice(("tiny", "primes", "thin", "any"))
    while True:
        if kind == "thin":
            size = [rng.choice((1, 1, 2, 3)) for _ in range(ndim)]
            size[rng.randrange(ndim)] = rng.randint(1, 300)
        else:
            size = [
                {"tiny": rng.randint(1, 4), "primes": rng.choice(PRIMES), "any": rng.randint(1, 40)}[kind]
                for _ in range(ndim)
            ]
        if math.prod(size) <= VOXELS:
            return tuple(size)


def _layout(rng: random.Random) -> str:
    return "far" if rng.random() < 0.01 else rng.choice([name for name in STRIDES if name != "far"])


@cache
def _texts(operation: str, option: str) -> list[Any]:
    """The values of an option of names, and of names for each of several things."""
    values = [sample.options.get(option) for sample in BY_NAME[operation].samples]
    return list(dict.fromkeys(value for value in values if isinstance(value, str | tuple)))


def _other(rng: random.Random, case: Case, name: str, value: Any) -> Any:
    """Another value of the same kind for an option; not every one is possible with the other arguments."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((0, 1, 2, 3, 4, 5, 7, 12 if math.prod(case.size) < 50 else 6))
    if isinstance(value, float):
        return rng.choice((0.0, 1e-3, 0.3, 1.0, 2.5, 40.0, 1e-30, -1.0))
    if isinstance(value, str) or (isinstance(value, tuple) and isinstance(value[0], str)):
        return rng.choice(_texts(case.operation, name) or [value])
    if isinstance(value, tuple | list):
        return type(value)(_other(rng, case, name, item) for item in value)
    return value


def calls(seed: int, count: int) -> Iterator[tuple[str, tuple[()], dict[str, Any]]]:
    """Random calls of the public operations, good and bad ones: names, and the arguments, none of them by position."""
    for index in range(count):
        case = drawn(seed, index)
        inputs, options = case.arguments()
        yield case.operation, (), leaves(case.described, inputs) | options


def call(name: str, *args: Any, **kwargs: Any) -> str:
    """Make such a call, and of what it returns the derivatives.

    Returns:
        How it was refused, "" where it was not.
    """
    try:
        result = BY_NAME[name].function(*args, **kwargs)
        ends = [r for r in (result if isinstance(result, tuple) else (result,)) if r.requires_grad]
        if ends:
            torch.autograd.backward(ends, [weights_of(end, 11) for end in ends])
    except REFUSALS as error:
        return str(error)
    except Exception as error:
        if not is_of_tests(error):
            raise
        return str(error)
    return ""


def is_of_tests(error: Exception) -> bool:
    """Whether what the tests put around an operation raises it, as for what cannot be rounded to labels."""
    ours = [f.filename for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}torch{os.sep}" not in f.filename]
    return ours[-1].startswith(TESTS)


def leaves(operation: Operation, inputs: Inputs) -> dict[str, Any]:
    """The inputs, those that have gradients as leaves of a graph."""
    good = {name: t for name, t in inputs.items() if isinstance(t, Tensor) and t.is_floating_point()}
    return inputs | placed(operation, good)
