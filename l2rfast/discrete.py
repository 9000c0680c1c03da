"""Discrete registration: descriptors, the whole chain from features to displacements, and what makes fields agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import _check
from ._dispatch import Operator
from .correlation import Lattice, at_control_points, lattice, lattice_costs
from .errors import InputError
from .kernels.common.constants import numbers
from .kernels.mind_ssc import reference as mind_ssc_reference
from .regularisation import METHODS, mean_field, min_convolution, soft_argmin
from .transforms import warp

# PDD-Net's: scale and offset of the correlation, those of it and of the first estimate in the second, the sharpness.
ALPHAS = (1.1337, 0.0761, 1.0533, -0.7469, 0.0728, 1.1337)
MEMORY = ("normal", "low")
_REACH = 2  # of a mean field, in control points
_PLANES = 4  # of control points at once, where memory is to be low


def _fake_mind_ssc(image: Tensor, radius: int, dilation: int, pool: int) -> Tensor:
    channels = 12 if image.ndim == 5 else 4
    return image.new_empty((image.shape[0], channels, *(s // pool for s in image.shape[2:])))


_mind_ssc = Operator(mind_ssc_reference.mind_ssc, fake=_fake_mind_ssc)


def mind_ssc(image: Tensor, radius: int = 2, dilation: int = 2, *, pool: int = 1) -> Tensor:
    """The self-similarity context descriptor of an image (Heinrich et al., MICCAI 2013).

    Args:
        image: (N, 1, *spatial), 2-D or 3-D, floating, finite, of intensities up to 1e15 in float32 and less: their
            squares are summed.
        radius: half-width in voxels of the patches that are compared, at least 0.
        dilation: distance in voxels to the neighbours whose patches are compared, at least 1.
        pool: average the descriptor over blocks of this many voxels a side, as ``avg_pool`` does, without
            storing it in full.

    Returns:
        (N, 12, *spatial // pool), in 2-D (N, 4, ...), in the image's dtype, values in (0, 1]. The channel order
        is that of the public implementations. A constant image gives ones. Not differentiable.

    Raises:
        InputError: a wrong shape or dtype, or a parameter out of range.
    """
    ndim = _check.image("image", image)
    if image.shape[1] != 1:
        raise InputError(f"image: expected one channel, got {image.shape[1]}")
    radius = _check.at_least("radius", radius, 0)
    dilation = _check.at_least("dilation", dilation, 1)
    pool = _check.at_least("pool", pool, 1)
    if min(image.shape[-ndim:]) < pool:
        raise InputError(f"pool: expected at most the smallest side of the image, got {pool}")
    result: Tensor = _mind_ssc(image.to(_check.arithmetic_dtype(image)), radius, dilation, pool)
    return result.to(image.dtype)


def _affine(cost: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * cost + offset, in the memory of the cost where no gradient needs what it was."""
    if torch.is_grad_enabled() and (cost.requires_grad or scale.requires_grad):
        cost = cost * scale
    else:
        cost *= scale
    return cost if offset is None else cost.add_(offset)


def _chain(
    fixed: Tensor,
    moving: Tensor,
    on: Lattice,
    alphas: Tensor,
    weight: float | Tensor | None,
    method: str,
    more: dict[str, bool],
) -> tuple[Tensor, ...]:
    """fixed (N, C, *grid), at the control points, moving (N, C, *spatial) -> (N, ndim, *grid), and more."""

    def regularised(cost: Tensor) -> Tensor:
        cost = min_convolution(cost, weight, method=method)
        if torch.is_grad_enabled() and cost.requires_grad:
            return mean_field(cost)
        for part in torch.split(cost, 1, 1):  # in its own memory: a third volume is the largest that the chain needs
            part.copy_(mean_field(part))
        return cost

    first, *rest = alphas.unbind()
    cost = _affine(lattice_costs(fixed, moving, on, "ssd"), first, rest[0])
    estimate = regularised(cost)
    if len(alphas) == 6:
        both = _affine(cost, rest[1]).add_(_affine(estimate, rest[2], rest[3]))
        del cost, estimate
        estimate = regularised(both)
    found = soft_argmin(estimate, alphas[-1], dilation=on.steps, **more)
    return found if isinstance(found, tuple) else (found,)


def discrete_displacement(
    fixed: Tensor,
    moving: Tensor,
    grid_size: int | Sequence[int],
    search_size: int | Sequence[int],
    search_extent: float | Sequence[float],
    alphas: Sequence[float] | Tensor = ALPHAS,
    *,
    method: str = "pooled",
    weight: float | Tensor | None = None,
    align_corners: bool = False,
    memory: str = "normal",
    probabilities: bool = False,
    entropy: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """A displacement at every control point, from features: the layers of PDD-Net after its network (MICCAI 2019).

        C0 = a1 + a0 * lattice_correlation(fixed, moving)
        C1 = mean_field(min_convolution(C0))
        C2 = a4 + a2 * C0 + a3 * C1
        out = soft_argmin(mean_field(min_convolution(C2)), a5)

    Args:
        fixed, moving: (N, C, *spatial) features of one shape, 2-D or 3-D, floating.
        grid_size, search_size, search_extent, align_corners: of `lattice_correlation`.
        alphas: a0 ... a5, or a0, a1 and a sharpness for a chain that ends after C1; numbers or a tensor of them, which
            may be learnable.
        method, weight: of `min_convolution`.
        memory: ``"normal"`` holds whole cost volumes, and in training several for the backward pass; ``"low"`` the
            costs of a few planes of control points at a time, and computes them again, with their neighbours, in the
            backward pass. The displacements are the same.
        probabilities, entropy: of the displacements, returned as well, see `soft_argmin`.

    Returns:
        (N, ndim, *grid), in voxels of moving, in its dtype; or a tuple of it and of what was asked for, (N, *search,
        *grid) and (N, 1, *grid). Differentiable once, by features, alphas and weight.

    Raises:
        InputError: shapes, dtypes or devices that differ, or a parameter out of range.
    """
    _check.image("fixed", fixed)
    _check.image("moving", moving)
    _check.same("fixed, moving", fixed, moving)
    _check.choice("method", method, METHODS)
    _check.choice("memory", memory, MEMORY)
    on = lattice(moving.shape[2:], grid_size, search_size, search_extent, align_corners)
    real = _check.arithmetic_dtype(moving)
    factors = alphas if isinstance(alphas, Tensor) else numbers(_check.numbers("alphas", alphas), moving, torch.float32)
    if factors.shape not in ((3,), (6,)) or not _check.is_floating(factors):
        raise InputError(f"alphas: expected 3 or 6 floating numbers, got {alphas!r}")
    factors = factors.to(real)
    at = at_control_points(fixed, on)
    more = {"probabilities": probabilities, "entropy": entropy}
    if memory == "normal":
        found = _chain(at, moving, on, factors, weight, method, more)
        return found if len(found) > 1 else found[0]
    # Neighbours that mean fields reach are computed with a run of planes, and their displacements left out.
    reach, planes = _REACH * (2 if len(factors) == 6 else 1), len(on.points[0])
    runs: list[list[Tensor]] = []
    for begin in range(0, planes, _PLANES):
        end = min(begin + _PLANES, planes)
        low, high = max(begin - reach, 0), min(end + reach, planes)
        parts: tuple[Tensor, ...] = checkpoint(
            _chain, at[:, :, low:high], moving, on.planes(low, high), factors, weight, method, more, use_reentrant=False
        )
        # The first axis of the grid is the last but ndim - 1.
        runs.append([part.narrow(part.ndim - len(on.points), begin - low, end - begin) for part in parts])
    whole = tuple(torch.cat(parts, parts[0].ndim - len(on.points)) for parts in zip(*runs, strict=True))
    return whole if len(whole) > 1 else whole[0]


def inverse_consistency(forward: Tensor, backward: Tensor, iterations: int = 15) -> tuple[Tensor, Tensor]:
    """Make two displacement fields each other's inverse (Heinrich et al. 2014; ConvexAdam).

    Repeats ``f <- (f - b(x + f)) / 2`` and ``b <- (b - f(x + b)) / 2``, fields sampled linearly, border repeated.

    Args:
        forward, backward: (N, ndim, *spatial) fields of one shape, in voxels of their own grid.
        iterations: number of repetitions, at least 0.

    Returns:
        The two fields, in their dtype.
    """
    _check.field("forward", forward)
    _check.field("backward", backward)
    _check.same("forward, backward", forward, backward)
    iterations = _check.at_least("iterations", iterations, 0)
    dtype = forward.dtype
    forward, backward = (f.to(_check.arithmetic_dtype(f)) for f in (forward, backward))
    for _ in range(iterations):
        forward, backward = (
            0.5 * (forward - warp(backward, forward)),
            0.5 * (backward - warp(forward, backward)),
        )
    return forward.to(dtype), backward.to(dtype)


__all__ = ["ALPHAS", "discrete_displacement", "inverse_consistency", "mind_ssc"]
