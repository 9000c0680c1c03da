"""A displacement field between two steps that are given on blocks of its voxels: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common import sampling
from ..common.constants import numbers


def compose_steps(disp: Tensor, before: Tensor, after: Tensor, blocks: Sequence[int]) -> Tensor:
    """disp (N, ndim, *spatial), before and after (N, ndim, *coarse) -> x + the field of the three, (N, ndim, *spatial).

    Block i of s voxels begins at voxel s * i, its centre at s * i + (s - 1) / 2.
    """
    sides = numbers(blocks, disp)
    matrix = torch.cat([(1 / sides).diag(), ((1 / sides - 1) / 2)[:, None]], 1)[None]

    def at(step: Tensor, places: Tensor) -> Tensor:
        return sampling.sample(step, sampling.transformed(matrix, places), "linear", "border")

    first = at(before, sampling.coordinates(list(disp.shape[2:]), disp)).expand(disp.shape)
    second = first + sampling.sample(disp, sampling.displaced(first), "linear", "border")
    return second + at(after, sampling.displaced(second))
