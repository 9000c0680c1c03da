"""Energies of a displacement field u (N, ndim, *spatial), of every item, and their gradients: the definition.

Diffusion: the mean over axes k of the mean over components and neighbours of ((u(x + e_k) - u(x)) / s_k)^2, voxels
being s_k apart.

Bending: the mean over components and voxels of the sum over axes k and m of (D_k D_m u)^2, where D_k is the central
difference (u(x + e_k) - u(x - e_k)) / 2 and the voxels are those for which all of these exist, two from every border.
Compact: D_k D_k u is u(x + e_k) - 2 u(x) + u(x - e_k) instead, and the voxels are one from every border.

Gradient: the sum over axes k of the mean over components and voxels of (D_k u)^2, or of |D_k u|, one voxel from every
border.

The gradient is the adjoint of the differences, applied to twice them, or to their signs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _difference(u: Tensor, axis: int, step: int) -> Tensor:
    """u(x + step e) - u(x), where both are."""
    n = u.shape[axis] - step
    return u.narrow(axis, step, n) - u.narrow(axis, 0, n)


def _add_adjoint(gradient: Tensor, difference: Tensor, axis: int, step: int) -> None:
    n = gradient.shape[axis] - step
    gradient.narrow(axis, step, n).add_(difference)
    gradient.narrow(axis, 0, n).sub_(difference)


def diffusion_energy(disp: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """disp (N, ndim, *spatial) -> energy (N,), gradient like disp."""
    ndim = disp.ndim - 2
    energy, gradient = disp.new_zeros(disp.shape[0]), torch.zeros_like(disp, memory_format=torch.contiguous_format)
    for axis, side in enumerate(spacing, 2):
        if disp.shape[axis] > 1:
            d = _difference(disp, axis, 1)
            terms = ndim * d[0].numel() * side**2
            energy += d.square().flatten(1).sum(1) / terms
            _add_adjoint(gradient, 2 / terms * d, axis, 1)
    return energy, gradient


def _inner(u: Tensor, margin: int, without: tuple[int, ...]) -> Tensor:
    """So many voxels off both ends of the spatial axes, one less for every time that an axis is among the others."""
    whole = margin
    for axis in range(2, u.ndim):
        margin = whole - without.count(axis)
        u = u.narrow(axis, margin, u.shape[axis] - 2 * margin)
    return u


def bending_energy(disp: Tensor, compact: bool) -> tuple[Tensor, Tensor]:
    """disp (N, ndim, *spatial), at least 5 voxels along every axis, compact 3 -> energy (N,), gradient like disp."""
    energy, gradient = disp.new_zeros(disp.shape[0]), torch.zeros_like(disp, memory_format=torch.contiguous_format)
    for k in range(2, disp.ndim):
        for m in range(k, disp.ndim):
            # A central difference takes a voxel off both ends of its axis; a compact second one takes no more.
            step, margin, taken = (1, 1, (k,)) if compact and k == m else (2, 1 if compact else 2, (k, m))
            second = _inner(_difference(_difference(disp, k, step), m, step) / step**2, margin, taken)
            terms, weight = second[0].numel(), 1 if k == m else 2
            energy += weight * second.square().flatten(1).sum(1) / terms
            whole = list(disp.shape)
            whole[k] -= step
            first = disp.new_zeros(whole)
            whole[m] -= step
            spread = disp.new_zeros(whole)
            _inner(spread, margin, taken).copy_(2 * weight / (step**2 * terms) * second)
            _add_adjoint(first, spread, m, step)
            _add_adjoint(gradient, first, k, step)
    return energy, gradient


def gradient_energy(disp: Tensor, absolute: bool) -> tuple[Tensor, Tensor]:
    """disp (N, ndim, *spatial), at least 3 voxels along every axis -> energy (N,), gradient like disp."""
    energy, gradient = disp.new_zeros(disp.shape[0]), torch.zeros_like(disp, memory_format=torch.contiguous_format)
    for axis in range(2, disp.ndim):
        d = _inner(_difference(disp, axis, 2) / 2, 1, (axis,))
        terms = d[0].numel()
        energy += (d.abs() if absolute else d.square()).flatten(1).sum(1) / terms
        whole = list(disp.shape)
        whole[axis] -= 2
        spread = disp.new_zeros(whole)
        _inner(spread, 1, (axis,)).copy_((d.sign() / 2 if absolute else d) / terms)
        _add_adjoint(gradient, spread, axis, 2)
    return energy, gradient
