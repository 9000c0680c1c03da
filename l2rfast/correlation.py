"""Cost volumes: what every displacement in a window, or on a lattice, would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from . import _check
from ._dispatch import Operator, once_differentiable
from .errors import InputError, NotDifferentiableError
from .kernels.common.constants import numbers
from .kernels.correlation import reference
from .kernels.lattice_correlation import reference as lattice_reference
from .transforms import affine_warp

METRICS = ("ssd", "sad", "dot")
LATTICE_METRICS = ("ssd", "dot")
EDGES = ("zeros", "border")


def _fake_correlation(fixed: Tensor, moving: Tensor, radius: Sequence[int], *options: Any) -> Tensor:
    return fixed.new_empty((fixed.shape[0], *(2 * r + 1 for r in radius), *fixed.shape[2:]))


def _fake_lattice(
    fixed: Tensor, moving: Tensor, points: Sequence[float], shifts: Sequence[float], search: Sequence[int], metric: str
) -> Tensor:
    return fixed.new_empty((fixed.shape[0], *search, *fixed.shape[2:]))


def _fake_backward(grad: Tensor, fixed: Tensor, moving: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    dtype = _check.arithmetic_dtype(fixed)
    shapes = [t.shape if asked else (0,) for t, asked in zip((fixed, moving), options[-2:], strict=True)]
    return fixed.new_empty(shapes[0], dtype=dtype), moving.new_empty(shapes[1], dtype=dtype)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    fixed, moving, *ctx.options = inputs
    ctx.save_for_backward(fixed, moving)


def _to_both(ctx: Any, backward: Operator, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed, both = ctx.needs_input_grad[:2], ctx.saved_tensors
    gradients = backward(grad, *both, *ctx.options, *needed)
    each = (g.to(t.dtype) if n else None for g, t, n in zip(gradients, both, needed, strict=True))
    return *each, *[None] * len(ctx.options)


def _correlation_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    once_differentiable("correlation")
    return _to_both(ctx, _correlation_backward, grad)


def _lattice_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    once_differentiable("lattice_correlation")
    return _to_both(ctx, _lattice_backward, grad)


def _second_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.options, ctx.asked = *inputs[:3], inputs[3:-2], inputs[-2:]
    ctx.save_for_backward(*tensors)


def _second_gradient(products: Callable[..., Tensor], backward: Callable[..., Any]) -> Callable[..., Any]:
    """The autograd formula of a backward, which for products is as linear as they are."""

    def formula(ctx: Any, fixed_tangent: Tensor, moving_tangent: Tensor) -> tuple[Tensor | None, ...]:
        *options, metric = ctx.options
        if metric != "dot":
            raise NotDifferentiableError("correlation: has no second derivative; call backward without create_graph")
        grad, fixed, moving = ctx.saved_tensors
        to_grad = to_fixed = to_moving = None
        if ctx.asked[0]:  # sum over e of grad * moving
            tangent = fixed_tangent.to(fixed.dtype)
            to_grad = products(tangent, moving, *options)
            to_moving = backward(grad, tangent, moving, *options, "dot", False, True)[1].to(moving.dtype)
        if ctx.asked[1]:  # sum over e of grad * fixed, shifted back
            tangent = moving_tangent.to(moving.dtype)
            more = products(fixed, tangent, *options)
            to_grad = more if to_grad is None else to_grad + more
            to_fixed = backward(grad, fixed, tangent, *options, "dot", True, False)[0].to(fixed.dtype)
        return to_grad, to_fixed, to_moving, *[None] * (len(ctx.options) + 2)

    return formula


_correlation_backward: Operator = Operator(
    reference.correlation_backward,
    fake=_fake_backward,
    backward=_second_gradient(
        lambda fixed, moving, *window: _correlation(fixed, moving, *window, "dot"),
        lambda *args: _correlation_backward(*args),
    ),
    setup_context=_second_context,
)
_correlation: Operator = Operator(
    reference.correlation, fake=_fake_correlation, backward=_correlation_gradient, setup_context=_context
)
_lattice_backward: Operator = Operator(
    lattice_reference.lattice_correlation_backward,
    fake=_fake_backward,
    backward=_second_gradient(
        lambda fixed, moving, *on: _lattice(fixed, moving, *on, "dot"), lambda *args: _lattice_backward(*args)
    ),
    setup_context=_second_context,
)
_lattice: Operator = Operator(
    lattice_reference.lattice_correlation, fake=_fake_lattice, backward=_lattice_gradient, setup_context=_context
)


def correlation(
    fixed: Tensor,
    moving: Tensor,
    radius: int | Sequence[int],
    *,
    metric: str = "ssd",
    dilation: int = 1,
    padding: str = "zeros",
    smoothing: int = 0,
) -> Tensor:
    """Dense cost volume: the cost of every displacement in a window, summed over channels.

    Args:
        fixed, moving: (N, C, *spatial) features of one shape, 2-D or 3-D, floating.
        radius: the window reaches ``radius * dilation`` voxels to each side, at least 0; one for all axes or one each.
        metric: ``"ssd"``, squared differences; ``"sad"``, absolute differences; ``"dot"``, products.
        dilation: distance in voxels between displacements, at least 1.
        padding: moving outside its volume: ``"zeros"`` or ``"border"``.
        smoothing: this many box averages of width 3 (zeros outside) over the spatial axes of each displacement,
            made in the same pass; 2 gives ConvexAdam's cost volume.

    Returns:
        (N, *search, *spatial), in the dtype of the features, sums in float32 or wider: entry i of search axis k is the
        displacement ``(i - radius_k) * dilation`` voxels. Differentiable once. Differences are squared as they are;
        f^2 + m^2 - 2 f m, which is cheaper with many channels, loses the digits that f and m share.

    Raises:
        InputError: shapes, dtypes or devices that differ, or a parameter out of range.
    """
    ndim = _check.image("fixed", fixed)
    _check.image("moving", moving)
    _check.same("fixed, moving", fixed, moving)
    radii = _check.per_axis("radius", radius, ndim, 0)
    _check.choice("metric", metric, METRICS)
    dilation = _check.at_least("dilation", dilation, 1)
    smoothing = _check.at_least("smoothing", smoothing, 0)
    _check.choice("padding", padding, EDGES)
    result: Tensor = _correlation(fixed, moving, radii, dilation, padding, smoothing, metric)
    return result


class Lattice(NamedTuple):
    """Control points and displacements, axis by axis, in voxels of an image."""

    points: list[list[float]]
    shifts: list[list[float]]

    @property
    def search(self) -> list[int]:
        return [len(s) for s in self.shifts]

    @property
    def steps(self) -> list[float]:
        """From one displacement to the next."""
        return [s[1] - s[0] if len(s) > 1 else 0.0 for s in self.shifts]

    def planes(self, begin: int, end: int) -> Lattice:
        """Of these control points along the first axis."""
        return Lattice([self.points[0][begin:end], *self.points[1:]], self.shifts)


def _places(count: int, align_corners: bool) -> list[float]:
    """In [-1, 1]: centres of `count` cells, or `count` points from end to end."""
    if align_corners:
        return [2 * i / (count - 1) - 1 for i in range(count)] if count > 1 else [0.0]
    return [(2 * i + 1) / count - 1 for i in range(count)]


def lattice(
    size: Sequence[int],
    grid_size: int | Sequence[int],
    search_size: int | Sequence[int],
    search_extent: float | Sequence[float],
    align_corners: bool,
) -> Lattice:
    """That of an image of a size, as `lattice_correlation` has it."""
    ndim = len(size)
    grid = _check.per_axis("grid_size", grid_size, ndim, 1)
    search = _check.per_axis("search_size", search_size, ndim, 1)
    extents = _check.each_axis(search_extent, ndim)
    if len(extents) != ndim or not all(_check.is_number(e) and e >= 0 for e in extents):
        raise InputError(f"search_extent: expected a number >= 0, or {ndim} of them, got {search_extent!r}")
    align_corners = _check.flag("align_corners", align_corners)
    halves = [(s - 1) / 2 if align_corners else s / 2 for s in size]
    points = [
        [(s - 1) / 2 + half * p for p in _places(g, align_corners)]
        for s, half, g in zip(size, halves, grid, strict=True)
    ]
    shifts = [
        [half * (float(e) * p) for p in _places(n, align_corners)]
        for half, e, n in zip(halves, extents, search, strict=True)
    ]
    return Lattice(points, shifts)


def at_control_points(image: Tensor, on: Lattice) -> Tensor:
    """(N, C, *spatial) -> (N, C, *grid), linear, zeros outside."""
    steps = numbers([p[1] - p[0] if len(p) > 1 else 0.0 for p in on.points], image, _check.arithmetic_dtype(image))
    matrix = torch.cat([steps.diag(), numbers([p[0] for p in on.points], steps).view(-1, 1)], 1)
    return affine_warp(image, matrix[None], [len(p) for p in on.points], padding="zeros")


def _flat(on: Lattice) -> tuple[list[float], list[float], list[int]]:
    """As the operators take it."""
    return list(chain.from_iterable(on.points)), list(chain.from_iterable(on.shifts)), on.search


def lattice_costs(fixed: Tensor, moving: Tensor, on: Lattice, metric: str) -> Tensor:
    """fixed (N, C, *grid) at the control points, moving (N, C, *spatial) -> (N, *search, *grid)."""
    result: Tensor = _lattice(fixed, moving, *_flat(on), metric)
    return result


def lattice_correlation(
    fixed: Tensor,
    moving: Tensor,
    grid_size: int | Sequence[int],
    search_size: int | Sequence[int],
    search_extent: float | Sequence[float],
    *,
    metric: str = "ssd",
    align_corners: bool = False,
) -> Tensor:
    """The cost of a regular lattice of continuous displacements, at a regular lattice of control points.

    The correlation layer of PDD-Net (Heinrich, MICCAI 2019). Features are sampled linearly: fixed at the control
    points, with zeros outside; moving at the displaced control points, with its border repeated.

    Args:
        fixed, moving: (N, C, *spatial) features of one shape, 2-D or 3-D, floating.
        grid_size: number of control points, at least 1; one for all axes or one each.
        search_size: number of displacements, at least 1, likewise.
        search_extent: how far displacements reach, as a fraction of half the image's size, at least 0, likewise.
        metric: ``"ssd"``, squared differences, or ``"dot"``, products.
        align_corners: where ``F.affine_grid`` puts control points and displacements. False: at the centres of as many
            cells, which fill the image, or the extent; True: from end to end, as PyTorch did before 1.3.

    Returns:
        (N, *search, *grid), summed over channels, in the dtype of the features. `lattice_steps` gives the voxels
        between displacements. Differentiable once.

    Raises:
        InputError: shapes, dtypes or devices that differ, or a parameter out of range.
    """
    _check.image("fixed", fixed)
    _check.image("moving", moving)
    _check.same("fixed, moving", fixed, moving)
    _check.choice("metric", metric, LATTICE_METRICS)
    on = lattice(moving.shape[2:], grid_size, search_size, search_extent, align_corners)
    return lattice_costs(at_control_points(fixed, on), moving, on, metric)


def lattice_steps(
    size: Sequence[int],
    search_size: int | Sequence[int],
    search_extent: float | Sequence[float],
    *,
    align_corners: bool = False,
) -> list[float]:
    """Voxels between displacements of `lattice_correlation`, by axis: the dilation that `soft_argmin` takes.

    Args:
        size: the spatial size of the features.
        search_size, search_extent, align_corners: as there.

    Returns:
        A number for each axis.
    """
    return lattice(size, 1, search_size, search_extent, align_corners).steps


def shift_labels(
    probabilities: Tensor,
    labels: Tensor,
    search_extent: float | Sequence[float] | None = None,
    *,
    dilation: int = 1,
    padding: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """What labels are expected after a displacement of which only the probabilities are known.

        out(n, k, x) = sum over e of probabilities(n, e, x) labels(n, k, x + e)

    PDD-Net's non-local label expectation (Heinrich, MICCAI 2019), without a shifted copy of the labels.

    Args:
        probabilities: (N, *search, *grid), as `soft_argmin` returns them, floating.
        labels: (N, K, *spatial), in the dtype of the probabilities: one-hot, or likelihoods.
        search_extent: displacements and control points of `lattice_correlation`, whose samples take the border. None:
            those of `correlation`, in steps of ``dilation`` voxels, and the grid is that of the labels.
        dilation, padding: of `correlation`.
        align_corners: of `lattice_correlation`.

    Returns:
        (N, K, *grid). Differentiable twice, by both.

    Raises:
        InputError: shapes that do not fit, dtypes or devices that differ, or a parameter out of range.
    """
    ndim = _check.image("labels", labels)
    _check.cost("probabilities", probabilities, ndim)
    _check.same("probabilities, labels", probabilities, labels, shape=False)
    if probabilities.shape[0] != labels.shape[0]:
        raise InputError(
            f"probabilities, labels: expected one batch size, got {probabilities.shape[0]} and {labels.shape[0]}"
        )
    search, grid = probabilities.shape[1 : 1 + ndim], probabilities.shape[1 + ndim :]
    # The gradient of a correlation by products to fixed is this sum, whatever fixed is.
    nothing = labels.new_zeros((*labels.shape[:2], *grid))
    if search_extent is not None:
        on = lattice(labels.shape[2:], list(grid), list(search), search_extent, align_corners)
        expected, _ = _lattice_backward(probabilities, nothing, labels, *_flat(on), "dot", True, False)
        return cast(Tensor, expected.to(labels.dtype))
    dilation = _check.at_least("dilation", dilation, 1)
    _check.choice("padding", padding, EDGES)
    if grid != labels.shape[2:] or any(s % 2 == 0 for s in search):
        raise InputError(
            f"probabilities: expected odd search sizes and the spatial size {tuple(labels.shape[2:])} of labels, got "
            f"shape {tuple(probabilities.shape)}"
        )
    window = [s // 2 for s in search], dilation, padding, 0
    expected, _ = _correlation_backward(probabilities, nothing, labels, *window, "dot", True, False)
    return cast(Tensor, expected.to(labels.dtype))


__all__ = ["correlation", "lattice_correlation", "lattice_steps", "shift_labels"]
