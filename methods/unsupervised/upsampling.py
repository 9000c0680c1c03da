"""A convolution of an upsampled image beside another one, without either being stored at the high resolution.

Of the 3^ndim voxels under a kernel, those that are copies of one coarse voxel share a product: 2^ndim products are
left, with sums of weights that depend on which side of its coarse voxel the voxel lies (its parity, along each axis).
That is 3.4 times fewer in 3-D, and nothing of the size of the upsampled image is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_of_upsampled(coarse: Tensor, beside: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``conv(cat([repeat_every_voxel_twice(coarse), beside], 1))`` with a kernel of 3^ndim, zeros around.

    Args:
        coarse: (N, C, *spatial).
        beside: (N, B, *twice spatial).
        weight: (O, C + B, 3, ...).
        bias: (O,).

    Returns:
        (N, O, *twice spatial). Differentiable, once.
    """
    conv, channels = F.conv3d if coarse.ndim == 5 else F.conv2d, coarse.shape[1]
    out = conv(beside, weight[:, channels:], bias, padding=1)
    parts = conv(coarse, _by_parity(weight[:, :channels]), padding=1)
    interleaved: Tensor = _Interleave.apply(out, parts)  # type: ignore[no-untyped-call]
    return interleaved


def _by_parity(weight: Tensor) -> Tensor:
    """(O, C, 3, ...) -> (2^ndim O, C, 2, ...): the taps on coarse voxels, one kernel after another."""
    ndim = weight.ndim - 2
    for _ in range(ndim):
        a, b, c = weight.unbind(2)
        # An even voxel is the first copy: its left neighbour is of another coarse voxel. An odd one mirrors it.
        weight = torch.stack([torch.stack([a, b + c], -1), torch.stack([a + b, c], -1)], -2)
    parities, taps = range(2, weight.ndim, 2), range(3, weight.ndim, 2)
    return weight.permute(*parities, 0, 1, *taps).flatten(0, ndim)


def _places(fine: Tensor, parts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The voxels of each parity, and the part of the convolutions' result that belongs there."""
    ndim = fine.ndim - 2
    for parity, part in zip(product(range(2), repeat=ndim), parts.chunk(2**ndim, 1), strict=True):
        voxels, inner = fine, part
        for axis, p in enumerate(parity, 2):
            voxels = voxels[(slice(None),) * axis + (slice(p, None, 2),)]
            inner = inner.narrow(axis, p, fine.shape[axis] // 2)
        yield voxels, inner


class _Interleave(torch.autograd.Function):
    """Adds the parts to the voxels that they belong to, in place. (Autograd's own would copy the whole for each.)"""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, parts: Tensor) -> Tensor:
        ctx.like = torch.empty_like(parts, device="meta")
        for voxels, part in _places(fine, parts):
            voxels += part
        ctx.mark_dirty(fine)
        return fine

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        to_parts = torch.zeros_like(ctx.like, device=gradient.device)
        for voxels, part in _places(gradient, to_parts):
            part.copy_(voxels)
        return gradient, to_parts
