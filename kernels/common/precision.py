"""In what GPUs keep sums that float32 cannot hold: in float64, or where that is slow, in pairs of float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal

import torch

Form = Literal["float64", "pairs"]

# Of all others float64 runs at 1/32 or 1/64 of the rate of float32, of these at half of it or at the same. Of NVIDIA
# by compute capability (CUDA C++ Programming Guide, Arithmetic Instructions), of AMD by architecture (CDNA).
FAST_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
FAST_FLOAT64_AMD = {"gfx906", "gfx908", "gfx90a", "gfx942", "gfx950"}

_form: ContextVar[Form | None] = ContextVar("form", default=None)


@contextmanager
def sums_in(form: Form) -> Iterator[None]:
    """Has sums kept in that form, whatever the GPU."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


@cache
def _slow_float64(device: torch.device) -> bool:
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0] not in FAST_FLOAT64_AMD
    return torch.cuda.get_device_capability(device) not in FAST_FLOAT64


def in_pairs(device: torch.device) -> bool:
    """Whether sums are kept in pairs of float32 there."""
    if form := _form.get():
        return form == "pairs"
    return device.type == "cuda" and _slow_float64(device)
