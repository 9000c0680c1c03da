"""Discrete registration: descriptors, cost volumes and their optimisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _check
from ._dispatch import Operator
from .errors import InputError
from .kernels.correlation import reference as correlation_reference
from .kernels.coupled_convex import reference as coupled_convex_reference
from .kernels.mind_ssc import reference as mind_ssc_reference
from .transforms import warp

# Of the squared distance to the smoothed field, in the order in which ConvexAdam uses them.
COEFFICIENTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def _fake_mind_ssc(image: Tensor, radius: int, dilation: int, pool: int) -> Tensor:
    channels = 12 if image.ndim == 5 else 4
    return image.new_empty((image.shape[0], channels, *(s // pool for s in image.shape[2:])))


def _fake_correlation(
    fixed: Tensor, moving: Tensor, radius: int, dilation: int, padding: str, smoothing: int
) -> Tensor:
    spatial = fixed.shape[2:]
    return fixed.new_empty((fixed.shape[0], *[2 * radius + 1] * len(spatial), *spatial))


def _fake_coupled_convex(cost: Tensor, coefficients: list[float]) -> Tensor:
    ndim = (cost.ndim - 1) // 2
    return cost.new_empty((cost.shape[0], ndim, *cost.shape[1 + ndim :]))


_mind_ssc = Operator(mind_ssc_reference.mind_ssc, fake=_fake_mind_ssc)
_correlation = Operator(correlation_reference.correlation, fake=_fake_correlation)
_coupled_convex = Operator(coupled_convex_reference.coupled_convex, fake=_fake_coupled_convex)


def mind_ssc(image: Tensor, radius: int = 2, dilation: int = 2, *, pool: int = 1) -> Tensor:
    """The self-similarity context descriptor of an image (Heinrich et al., MICCAI 2013).

    Args:
        image: (N, 1, *spatial), 2-D or 3-D, floating, finite.
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
    _check.at_least("radius", radius, 0)
    _check.at_least("dilation", dilation, 1)
    _check.at_least("pool", pool, 1)
    if min(image.shape[-ndim:]) < pool:
        raise InputError(f"pool: expected at most the smallest side of the image, got {pool}")
    result: Tensor = _mind_ssc(image.to(_check.arithmetic_dtype(image)), radius, dilation, pool)
    return result.to(image.dtype)


def correlation(
    fixed: Tensor,
    moving: Tensor,
    radius: int,
    *,
    dilation: int = 1,
    padding: str = "zeros",
    smoothing: int = 0,
) -> Tensor:
    """Dense cost volume: the sum over channels of squared differences for every displacement in a window.

    Args:
        fixed, moving: (N, C, *spatial) features of one shape, 2-D or 3-D, floating.
        radius: the window reaches ``radius * dilation`` voxels to each side, at least 0.
        dilation: distance in voxels between displacements, at least 1.
        padding: moving outside its volume: ``"zeros"`` or ``"border"``.
        smoothing: this many box averages of width 3 (zeros outside) over the spatial axes of each displacement,
            made in the same pass; 2 gives ConvexAdam's cost volume.

    Returns:
        (N, *search, *spatial): entry i of a search axis is the displacement ``(i - radius) * dilation`` voxels.
        Not differentiable yet.

    Raises:
        InputError: shapes, dtypes or devices that differ, or a parameter out of range.
    """
    _check.image("fixed", fixed)
    _check.image("moving", moving)
    _check.same("fixed, moving", fixed, moving)
    _check.at_least("radius", radius, 0)
    _check.at_least("dilation", dilation, 1)
    _check.at_least("smoothing", smoothing, 0)
    _check.choice("padding", padding, ("zeros", "border"))
    dtype = _check.arithmetic_dtype(fixed)
    f, m = fixed.to(dtype), moving.to(dtype)
    result: Tensor = _correlation(f, m, radius, dilation, padding, smoothing)
    return result.to(fixed.dtype)


def coupled_convex(cost: Tensor, coefficients: Sequence[float] = COEFFICIENTS) -> Tensor:
    """A smooth displacement field of low cost, by alternating arg-min and smoothing (Heinrich et al., WBIR 2014).

    Args:
        cost: (N, *search, *spatial), odd search sizes, 2-D or 3-D, floating.
        coefficients: weights of the squared distance to the smoothed field, one alternation each, positive.

    Returns:
        (N, ndim, *spatial) in steps of the search grid: multiply by the dilation and by the spacing of the
        control points for voxels.

    Raises:
        InputError: a wrong shape or dtype, an even search size, a coefficient that is not positive.
    """
    _check.tensor("cost", cost)
    if cost.ndim not in (5, 7) or not cost.is_floating_point():
        raise InputError(
            f"cost: expected a floating (N, *search, *spatial) tensor, got {cost.dtype} {tuple(cost.shape)}"
        )
    if cost.numel() == 0 or any(s % 2 == 0 for s in cost.shape[1 : (cost.ndim + 1) // 2]):
        raise InputError(f"cost: expected odd search sizes and no empty axis, got {tuple(cost.shape)}")
    weights = [float(a) for a in coefficients]
    if not all(a > 0 for a in weights):
        raise InputError(f"coefficients: expected positive numbers, got {weights}")
    result: Tensor = _coupled_convex(cost.to(_check.arithmetic_dtype(cost)), weights)
    return result.to(cost.dtype)


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
    _check.at_least("iterations", iterations, 0)
    dtype = forward.dtype
    forward, backward = (f.to(_check.arithmetic_dtype(f)) for f in (forward, backward))
    for _ in range(iterations):
        forward, backward = (
            0.5 * (forward - warp(backward, forward)),
            0.5 * (backward - warp(forward, backward)),
        )
    return forward.to(dtype), backward.to(dtype)


__all__ = ["COEFFICIENTS", "correlation", "coupled_convex", "inverse_consistency", "mind_ssc"]
