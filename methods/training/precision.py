"""In which numbers the convolutions of a step of training are computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# By which oneDNN, whose convolutions PyTorch's are on CPUs, can be held to fewer instructions than there are.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
# Slices of which networks that halve three times may make one. Of one slice along the first axis, PyTorch 2.13.0's
# convolutions of bfloat16 with AMX give values like 1e38 (findings/torch_bfloat16_one_slice.sh).
FEW = 8


def is_narrow(precision: str, device: str, images: Iterable[Tensor] = ()) -> bool:
    """Whether in bfloat16.

    Args:
        precision: ``"float32"``, ``"bfloat16"``, or ``"auto"``: the latter where that is known to be faster, which is
            on GPUs, and on CPUs that multiply matrices of bfloat16 (AMX). With AVX-512 alone it has not been measured,
            and without it there are no fast convolutions of bfloat16.
        device: the kind of it, as ``"cpu"``.
        images: (N, C, *spatial) of a step: volumes of few slices are not, with ``"auto"``, on CPUs.
    """
    if precision != "auto":
        return precision == "bfloat16"
    flat = any(image.ndim == 5 and image.shape[2] <= FEW for image in images)
    return device == "cuda" or (device == "cpu" and not flat and _multiplies_matrices())


def _multiplies_matrices() -> bool:
    # An older PyTorch does not tell.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16")) and not any(map(os.environ.get, LIMITS))
