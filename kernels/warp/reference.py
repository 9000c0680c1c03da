"""Warping by a displacement field: the definition.

    out(n, c, x) = sum over taps y of w(y; x + disp(n, :, x)) * image(n, c, y)

with the tensor-product linear (or nearest) weights of the sample position. A position that is NaN or
infinite gives NaN there (0 for integer images), and takes no part in any gradient of the image.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


def _positions(disp: Tensor) -> list[Tensor]:
    """Sample position per axis, each (N, *spatial), in voxels."""
    shape = disp.shape[2:]
    axes = [torch.arange(s, dtype=disp.dtype, device=disp.device) for s in shape]
    grids = torch.meshgrid(*axes, indexing="ij")
    return [grid + disp[:, k] for k, grid in enumerate(grids)]


def _inside(p: Tensor, size: int, padding: str) -> tuple[Tensor, Tensor]:
    """Position folded or clamped into [0, size - 1], and its derivative by p (0 where clamped)."""
    last = size - 1
    sign = torch.ones_like(p)
    if padding == "reflection":  # about the centres of the first and the last voxel
        span = max(last, 1)
        flips = torch.floor(p.abs() / span)
        extra = p.abs() - flips * span
        even = torch.remainder(flips, 2) == 0
        sign = torch.where((p < 0) == even, -sign, sign)
        p = torch.where(even, extra, span - extra)
    slope = torch.where((p > 0) & (p < last), sign, 0)
    return p.nan_to_num(0.0).clamp(0, last), slope


def _taps(p: Tensor, size: int, padding: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The two grid points of linear interpolation on one axis: (index, weight, d weight / d p) each."""
    finite = torch.isfinite(p)
    nan = torch.where(finite, 0.0, torch.nan).to(p.dtype)
    if padding == "zeros":
        q, slope = p.nan_to_num(0.0).clamp(-1, size), ((p > -1) & (p < size)).to(p.dtype)
        low = torch.floor(q)
    else:
        q, slope = _inside(p, size, padding)
        low = torch.floor(q).clamp(max=max(size - 2, 0))
    f = q - low
    taps = []
    for index, weight, derivative in ((low, 1 - f, -slope), (low + 1, f, slope)):
        valid = (index >= 0) & (index < size)
        taps.append(
            (
                index.clamp(0, size - 1).long(),
                torch.where(valid, weight, 0) + nan,
                torch.where(valid, derivative, 0),
            )
        )
    return taps


def _gather(image: Tensor, index: list[Tensor]) -> Tensor:
    """image (N, C, *in) at per-axis indices (N, *out) -> (N, C, *out)."""
    n = torch.arange(image.shape[0], device=image.device).view(-1, *[1] * (index[0].ndim - 1))
    at: tuple[Tensor | slice, ...] = (n, slice(None), *index)
    return image[at].movedim(-1, 1)


def warp(image: Tensor, disp: Tensor, mode: str, padding: str) -> Tensor:
    """image (N, C, *in), disp (N, ndim, *out) -> (N, C, *out)."""
    return _sample(image, _positions(disp), mode, padding)


def affine_warp(image: Tensor, matrix: Tensor, size: list[int], mode: str, padding: str) -> Tensor:
    """image (N, C, *in), matrix (N, ndim, ndim + 1): output voxel -> image voxel -> (N, C, *size)."""
    axes = [torch.arange(s, dtype=matrix.dtype, device=matrix.device) for s in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (ndim, *size)
    columns = matrix.view(*matrix.shape, *[1] * len(size)).unbind(2)
    positions = columns[-1]
    for column, x in zip(columns, grid, strict=False):  # not a matrix product: autocast would round it
        positions = positions + column * x
    return _sample(image, list(positions.unbind(1)), mode, padding)


def _sample(image: Tensor, positions: list[Tensor], mode: str, padding: str) -> Tensor:
    """image (N, C, *in) at one position (N, *out) per axis -> (N, C, *out)."""
    sizes, dtype = image.shape[2:], positions[0].dtype
    if mode == "nearest":
        return _sample_nearest(image, positions, padding)
    taps = [_taps(p, s, padding) for p, s in zip(positions, sizes, strict=True)]
    out = torch.zeros((image.shape[0], image.shape[1], *positions[0].shape[1:]), dtype=dtype, device=image.device)
    for corner in product((0, 1), repeat=len(sizes)):
        index = [taps[k][c][0] for k, c in enumerate(corner)]
        weight = torch.stack([taps[k][c][1] for k, c in enumerate(corner)]).prod(0)
        out += weight.unsqueeze(1) * _gather(image, index).to(dtype)
    return out.to(image.dtype)


def _sample_nearest(image: Tensor, positions: list[Tensor], padding: str) -> Tensor:
    sizes = image.shape[2:]
    finite = torch.stack([torch.isfinite(p) for p in positions]).all(0)
    if padding == "zeros":
        rounded = [torch.round(p.nan_to_num(-1.0)) for p in positions]
        valid = torch.stack([(r >= 0) & (r < s) for r, s in zip(rounded, sizes, strict=True)]).all(0)
        index = [r.clamp(0, s - 1).long() for r, s in zip(rounded, sizes, strict=True)]
    else:
        valid = finite
        index = [torch.round(_inside(p, s, padding)[0]).long() for p, s in zip(positions, sizes, strict=True)]
    out = torch.where(valid.unsqueeze(1), _gather(image, index), 0)
    if image.is_floating_point():
        out = torch.where(finite.unsqueeze(1), out, torch.nan)
    return out.to(image.dtype)


def warp_backward(
    grad: Tensor, image: Tensor, disp: Tensor, mode: str, padding: str, to_image: bool, to_disp: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of `warp` to image and to disp, in the dtype of disp; an empty tensor for one not asked for."""
    positions, sizes = _positions(disp), image.shape[2:]
    finite = torch.stack([torch.isfinite(p) for p in positions]).all(0)
    g = torch.where(finite.unsqueeze(1), grad.to(disp.dtype), 0)
    grad_image = torch.zeros(image.shape if to_image else (0,), dtype=disp.dtype, device=disp.device)
    grad_disp = torch.zeros(disp.shape if to_disp else (0,), dtype=disp.dtype, device=disp.device)
    if mode == "nearest":
        if to_image:
            ones = torch.ones((1, 1, *sizes), dtype=torch.bool, device=image.device).expand(image.shape[0], 1, *sizes)
            inside = _sample_nearest(ones, positions, padding)
            index = [
                torch.round(_inside(p, s, "border" if padding == "zeros" else padding)[0]).long()
                for p, s in zip(positions, sizes, strict=True)
            ]
            _scatter(grad_image, index, g * inside)
        return grad_image, grad_disp
    taps = [_taps(p.nan_to_num(0.0, 0.0, 0.0), s, padding) for p, s in zip(positions, sizes, strict=True)]
    for corner in product((0, 1), repeat=len(sizes)):
        index = [taps[k][c][0] for k, c in enumerate(corner)]
        weights = [taps[k][c][1] for k, c in enumerate(corner)]
        if to_image:
            _scatter(grad_image, index, g * torch.stack(weights).prod(0).unsqueeze(1))
        if to_disp:
            value = (g * _gather(image, index).to(disp.dtype)).sum(1)
            for k, c in enumerate(corner):
                others = [taps[k][c][2] if j == k else w for j, w in enumerate(weights)]
                grad_disp[:, k] += value * torch.stack(others).prod(0)
    return grad_image, grad_disp


def _scatter(target: Tensor, index: list[Tensor], value: Tensor) -> None:
    """The adjoint of `_gather`: adds value (N, C, *out) to target (N, C, *in) at the indices."""
    sizes = target.shape[2:]
    flat = torch.zeros_like(index[0])
    for i, s in zip(index, sizes, strict=True):
        flat = flat * s + i
    flat = flat.flatten(1).unsqueeze(1).expand(-1, target.shape[1], -1)
    target.flatten(2).scatter_add_(2, flat, value.flatten(2))
