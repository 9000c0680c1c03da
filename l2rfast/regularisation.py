"""Cost volumes made smooth, over displacements and over control points, and what displacement they then mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import _check
from ._dispatch import Operator, once_differentiable
from .errors import InputError
from .filters import box_average
from .kernels.coupled_convex import reference as coupled_convex_reference
from .kernels.min_convolution import reference as min_reference
from .kernels.soft_argmin import reference as soft_reference

# Of the squared distance to the smoothed field, in the order in which ConvexAdam uses them.
COEFFICIENTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
METHODS = ("exact", "pooled")


def _like(cost: Tensor, *_: Any) -> Tensor:
    return cost.new_empty(cost.shape)


def _gradient_like(cost: Tensor) -> Tensor:
    return cost.new_empty(cost.shape, dtype=_check.arithmetic_dtype(cost))


def _per_point(cost: Tensor, channels: int, dtype: Any) -> Tensor:
    ndim = (cost.ndim - 1) // 2
    return cost.new_empty((cost.shape[0], channels, *cost.shape[1 + ndim :]), dtype=dtype)


def _exact_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _exact_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    once_differentiable("min_convolution")
    cost, weight = ctx.saved_tensors
    to_cost, to_weight = _exact_backward(grad, cost, weight)
    return to_cost.to(cost.dtype), to_weight.to(weight.dtype)


def _pooled_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _pooled_gradient(ctx: Any, grad: Tensor) -> Tensor:
    once_differentiable("min_convolution")
    (cost,) = ctx.saved_tensors
    result: Tensor = _pooled_backward(grad, cost).to(cost.dtype)
    return result


def _fake_soft_argmin(
    cost: Tensor, beta: Tensor, dilation: Sequence[float], probabilities: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = _check.arithmetic_dtype(cost)
    per_point = [_per_point(cost, channels, dtype) for channels in (len(dilation), 1, 1)]
    return *per_point, cost.new_empty(cost.shape if probabilities else (0,))  # type: ignore[return-value]


def _soft_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    cost, beta, ctx.dilation, ctx.probabilities = inputs
    displacement, entropy, log_z, p = output
    ctx.mark_non_differentiable(log_z, *([] if ctx.probabilities else [p]))
    ctx.save_for_backward(cost, beta, displacement, entropy, log_z)


def _soft_gradient(
    ctx: Any, grad: Tensor, grad_entropy: Tensor, _: Tensor, grad_p: Tensor
) -> tuple[Tensor, Tensor, None, None]:
    once_differentiable("soft_argmin")
    cost, beta, *rest = ctx.saved_tensors
    asked = grad_p if ctx.probabilities else None
    to_cost, to_beta = _soft_backward(grad, grad_entropy, asked, cost, beta, *rest, ctx.dilation)
    return to_cost.to(cost.dtype), to_beta.to(beta.dtype), None, None


_exact_backward = Operator(
    min_reference.min_convolution_backward,
    fake=lambda grad, cost, weight: (_gradient_like(cost), _gradient_like(cost.new_empty(()))),
)
_exact = Operator(min_reference.min_convolution, fake=_like, backward=_exact_gradient, setup_context=_exact_context)
_pooled_backward = Operator(min_reference.pooled_min_convolution_backward, fake=lambda grad, cost: _gradient_like(cost))
_pooled = Operator(
    min_reference.pooled_min_convolution, fake=_like, backward=_pooled_gradient, setup_context=_pooled_context
)
_soft_backward = Operator(
    soft_reference.soft_argmin_backward,
    fake=lambda grad, grad_entropy, grad_p, cost, *_: (_gradient_like(cost), _gradient_like(cost.new_empty(()))),
)
_soft_argmin = Operator(
    soft_reference.soft_argmin, fake=_fake_soft_argmin, backward=_soft_gradient, setup_context=_soft_context
)
_coupled_convex = Operator(
    coupled_convex_reference.coupled_convex,
    fake=lambda cost, coefficients: _per_point(cost, (cost.ndim - 1) // 2, cost.dtype),
)


def min_convolution(cost: Tensor, weight: float | Tensor | None = None, *, method: str = "exact") -> Tensor:
    """The least cost of every displacement and a penalty on its distance to another.

        exact:   out(d, x) = min over e of cost(e, x) + weight * |d - e|^2
        pooled:  minima over the neighbours |d - e|_k <= 1, then two averages of width 3, the border repeated

    The first is the lower envelope of parabolas (Felzenszwalb and Huttenlocher, 2012), the second its approximation in
    PDD-Net (Heinrich, MICCAI 2019).

    Args:
        cost: (N, *search, *spatial), 2-D or 3-D, floating, without NaN. A cost of infinity forbids a displacement.
        weight: of the squared distance in steps of the search grid; positive and finite, a number or a tensor of one,
            which may be learnable. Pooling has none and takes no notice of it.
        method: ``"exact"`` or ``"pooled"``.

    Returns:
        The same shape and dtype, computed in float32 or wider. Differentiable once: the gradient goes to the cost
        that was the least, the first of equal ones along an axis, and to the weight.

    Raises:
        InputError: a wrong shape or dtype, a weight that is missing or not positive.
    """
    _check.cost("cost", cost)
    _check.choice("method", method, METHODS)
    if method == "pooled":
        pooled: Tensor = _pooled(cost)
        return pooled
    if weight is None:
        raise InputError("weight: expected a positive number for method exact, got None")
    exact: Tensor = _exact(cost, _check.positive("weight", weight, cost))
    return exact


def mean_field(cost: Tensor, *, radius: int = 1, passes: int = 2) -> Tensor:
    """Costs averaged over neighbouring control points, displacement by displacement.

    Args:
        cost: (N, *search, *spatial), 2-D or 3-D, floating.
        radius: half-width in control points of the average, at least 0.
        passes: how often, at least 0. The border is repeated before all of them, as PDD-Net does.

    Returns:
        The same shape and dtype. Differentiable. A volume that is the same at every control point stays as it is.

    Raises:
        InputError: a wrong shape or dtype, a negative radius or number of passes.
    """
    ndim = _check.cost("cost", cost)
    radius = _check.at_least("radius", radius, 0)
    passes = _check.at_least("passes", passes, 0)
    return box_average(cost.flatten(1, ndim), radius, passes=passes, padding="extended").view(cost.shape)


def soft_argmin(
    cost: Tensor,
    beta: float | Tensor,
    *,
    dilation: float | Sequence[float] = 1,
    probabilities: bool = False,
    entropy: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """The expected displacement under ``softmax(-beta * cost)`` over the displacements.

    Args:
        cost: (N, *search, *spatial), 2-D or 3-D, floating. A cost of infinity forbids a displacement.
        beta: sharpness: positive and finite, a number or a tensor of one, which may be learnable and of any sign.
        dilation: voxels from one displacement to the next, one for all axes or one each. The middle of the search
            is no displacement.
        probabilities: return them as well, (N, *search, *spatial).
        entropy: return theirs as well, (N, 1, *spatial), in nats: 0 where one displacement is certain.

    Returns:
        (N, ndim, *spatial), in voxels, in the dtype of cost; or a tuple of it and of what was asked for, in the order
        above. All are differentiable once. NaN where all displacements are forbidden.

    Raises:
        InputError: a wrong shape or dtype, or a parameter out of range.
    """
    ndim = _check.cost("cost", cost)
    steps = _check.each_axis(dilation, ndim)
    if len(steps) != ndim or not all(map(_check.is_number, steps)):
        raise InputError(f"dilation: expected a finite number, or {ndim} of them, got {dilation!r}")
    probabilities, entropy = _check.flag("probabilities", probabilities), _check.flag("entropy", entropy)
    sharpness = _check.positive("beta", beta, cost)
    field, uncertainty, _, p = _soft_argmin(cost, sharpness, [float(step) for step in steps], probabilities)
    chosen = [p] * probabilities + [uncertainty.to(cost.dtype)] * entropy
    displacement: Tensor = field.to(cost.dtype)
    return (displacement, *chosen) if chosen else displacement


def coupled_convex(cost: Tensor, coefficients: Sequence[float] = COEFFICIENTS) -> Tensor:
    """A smooth displacement field of low cost, by alternating arg-min and smoothing (Heinrich et al., WBIR 2014).

    Args:
        cost: (N, *search, *spatial), odd search sizes, 2-D or 3-D, floating, without NaN.
        coefficients: weights of the squared distance to the smoothed field, one alternation each, positive.

    Returns:
        (N, ndim, *spatial) in steps of the search grid: multiply by the dilation and by the spacing of the
        control points for voxels.

    Raises:
        InputError: a wrong shape or dtype, an even search size, a coefficient that is not positive.
    """
    ndim = _check.cost("cost", cost)
    if any(s % 2 == 0 for s in cost.shape[1 : 1 + ndim]):
        raise InputError(f"cost: expected odd search sizes, got {tuple(cost.shape)}")
    weights = _check.numbers("coefficients", coefficients, positive=True)
    result: Tensor = _coupled_convex(cost.to(_check.arithmetic_dtype(cost)), weights)
    return result.to(cost.dtype)


__all__ = ["COEFFICIENTS", "coupled_convex", "mean_field", "min_convolution", "soft_argmin"]
