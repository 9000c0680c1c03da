"""Sampling an image at positions: the definition that warp, grid_sample and affine_warp share.

An image is (N, C, *in). Positions are (N, ndim, *out) in voxels of the image, component k along spatial axis k, in the
dtype of the arithmetic. Image or positions may have a batch of one for all of the other's.

Per axis, linear interpolation is v[i] * w_0 + v[i + 1] * w_1 with i = floor(p) and w_1 = p - i; in several dimensions a
corner weighs the product over the axes. Where the padding holds a position at the border, its derivative is 0.

Cubic interpolation takes the image for the coefficients of a cubic B-spline, four along each axis, which mirror about
the outer voxels. Zeros outside are approached as linearly as linear interpolation does: over the voxel beyond the
border, from the spline's value there.

A coordinate that is not finite makes a value of NaN (0 in integer images) and no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product

import torch
from torch import Tensor

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # PyTorch 2.11 fills these


def arithmetic_dtype(where: Tensor) -> torch.dtype:
    """What positions and sums are computed in: float64 for a float64 field, grid or matrix, else float32."""
    return torch.float64 if where.dtype == torch.float64 else torch.float32


def coordinates(size: list[int], like: Tensor) -> Tensor:
    """(ndim, *size): every voxel's own position."""
    axes = [torch.arange(s, dtype=arithmetic_dtype(like), device=like.device) for s in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def displaced(disp: Tensor) -> Tensor:
    """x + disp(x) for a displacement field (N, ndim, *out): positions of its shape."""
    return coordinates(list(disp.shape[2:]), disp) + disp


def transformed(matrix: Tensor, places: Tensor) -> Tensor:
    """matrix (N, ndim, ndim + 1) times places (ndim, *size) or (N, ndim, *size): positions (N, ndim, *size)."""
    ndim = matrix.shape[1]
    columns = matrix.to(arithmetic_dtype(matrix)).view(*matrix.shape, *[1] * ndim).unbind(2)
    positions = columns[-1]
    for column, x in zip(columns, places.unbind(-1 - ndim), strict=False):
        x = x if x.ndim == ndim else x.unsqueeze(1)
        positions = positions + column * x  # not a matrix product: autocast would round it
    return positions


def sample(image: Tensor, positions: Tensor, mode: str, padding: str) -> Tensor:
    """-> (N, C, *out) in the image's dtype; mode "linear", "cubic" or "nearest" (ties to the even voxel)."""
    image, positions = one_batch(image, positions)
    if mode == "nearest":
        index, finite, valid = _nearest(positions, image.shape[2:], padding)
        out = gather(image, index)
        if not out.is_floating_point():
            return out * valid.unsqueeze(1).to(out.dtype)  # torch.where takes no uint16 in PyTorch 2.11
        out = torch.where(valid.unsqueeze(1), out, 0)
        return torch.where(finite.unsqueeze(1), out, torch.nan).to(image.dtype)
    out = torch.zeros((*image.shape[:2], *positions.shape[2:]), dtype=positions.dtype, device=image.device)
    for index, weights, slopes in corners(positions, image.shape[2:], padding, mode):
        out += weight(weights, slopes).unsqueeze(1) * gather(image, index)
    return torch.where(are_finite(positions).unsqueeze(1), out, torch.nan).to(image.dtype)


def beyond(positions: Tensor, sizes: Sequence[int]) -> Tensor:
    """(N, *out): which positions lie farther than half a voxel beyond an image's voxels, or nowhere."""
    ends = [(p >= -0.5) & (p < size - 0.5) for p, size in zip(positions.unbind(1), sizes, strict=True)]
    return ~reduce(torch.logical_and, ends)


def filled(samples: Tensor, where: Tensor, value: Tensor) -> Tensor:
    """One value, () in the dtype of the samples (N, C, *out), at (N, *out)."""
    stored = _SIGNED.get(samples.dtype, samples.dtype)
    found = samples.view(stored).masked_fill(where.unsqueeze(1), value.view(stored))
    return found.view(samples.dtype)


def sample_with_gradient(image: Tensor, positions: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    """-> linear samples (N, C, *out) and their derivatives by position (N, C, ndim, *out), in the image's dtype."""
    value = sample(image, positions, "linear", padding)
    image, positions = one_batch(image, positions)
    slope = torch.zeros((*image.shape[:2], *positions.shape[1:]), dtype=positions.dtype, device=image.device)
    for index, weights, slopes in corners(positions, image.shape[2:], padding):
        corner = gather(image, index)
        for k in range(len(weights)):
            slope[:, :, k] += weight(weights, slopes, k).unsqueeze(1) * corner
    return value, torch.where(are_finite(positions)[:, None, None], slope, 0).to(image.dtype)


def sample_backward(
    grad: Tensor, image: Tensor, positions: Tensor, mode: str, padding: str, to_image: bool, to_positions: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of `sample` to image and to positions, in the dtype of positions; empty where not asked for."""
    whole_image, whole_positions = one_batch(image, positions)
    grad_image = whole_image.new_zeros(whole_image.shape if to_image else (0,), dtype=positions.dtype)
    grad_positions = torch.zeros_like(whole_positions) if to_positions else positions.new_zeros(0)
    sizes = image.shape[2:]
    g = torch.where(are_finite(whole_positions).unsqueeze(1), grad.to(positions.dtype), 0)
    if mode == "nearest":
        if to_image:
            index, _, valid = _nearest(whole_positions, sizes, padding)
            _scatter(grad_image, index, g * valid.unsqueeze(1))
    else:
        for index, weights, slopes in corners(whole_positions, sizes, padding, mode):
            if to_image:
                _scatter(grad_image, index, g * weight(weights, slopes).unsqueeze(1))
            if to_positions:
                value = (g * gather(whole_image, index)).sum(1)
                for k in range(len(sizes)):
                    grad_positions[:, k] += value * weight(weights, slopes, k)
    return _sum_to(grad_image, image), _sum_to(grad_positions, positions)


def sample_double_backward(
    grad: Tensor, image: Tensor, positions: Tensor, tangent: Tensor, padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of sum(tangent * g), g the gradient to positions of linear `sample`, to grad, image and positions.

    g_k is sum_c grad_c * d_k image_c(p), so that the first is the derivative of the samples along the tangent, the
    second its adjoint, the third a Hessian of the samples times the tangent. All in the dtype of positions.
    """
    whole_image, whole_positions = one_batch(image, positions)
    v = torch.where(are_finite(whole_positions).unsqueeze(1), tangent.to(positions.dtype), 0)
    g = grad.to(positions.dtype)
    to_grad = torch.zeros_like(g)
    to_image = torch.zeros(whole_image.shape, dtype=positions.dtype, device=image.device)
    to_positions = torch.zeros_like(whole_positions)
    ndim = positions.shape[1]
    for index, weights, slopes in corners(whole_positions, image.shape[2:], padding):
        corner = gather(whole_image, index)
        along = torch.stack([v[:, k] * weight(weights, slopes, k) for k in range(ndim)]).sum(0).unsqueeze(1)
        to_grad += along * corner
        _scatter(to_image, index, along * g)
        value = (g * corner).sum(1)
        for k, m in product(range(ndim), repeat=2):
            if k != m:  # linear along each axis: no second derivative there
                to_positions[:, k] += value * v[:, m] * weight(weights, slopes, k, m)
    return to_grad, _sum_to(to_image, image), _sum_to(to_positions, positions)


def one_batch(image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    n = max(image.shape[0], positions.shape[0])
    return image.expand(n, *image.shape[1:]), positions.expand(n, *positions.shape[1:])


def _sum_to(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient to a tensor of which one batch item stands for all."""
    return grad.sum(0, keepdim=True) if grad.ndim > 1 and grad.shape[0] != like.shape[0] else grad


def are_finite(positions: Tensor) -> Tensor:
    return torch.isfinite(positions).all(1)


def inside(p: Tensor, size: int, padding: str) -> tuple[Tensor, Tensor]:
    """Position folded or clamped into [0, size - 1], and its derivative by p (0 where clamped)."""
    sign = torch.ones_like(p)
    if padding in ("reflection", "symmetric"):  # about the centres of the outer voxels, or about their outer edges
        low, span = (0.0, max(size - 1, 1)) if padding == "reflection" else (-0.5, size)
        distance = (p - low).abs()
        flips = torch.floor(distance / span)
        extra = distance - flips * span
        even = torch.remainder(flips, 2) == 0
        sign = torch.where((p < low) == even, -sign, sign)
        p = low + torch.where(even, extra, span - extra)
    slope = torch.where((p > 0) & (p < size - 1), sign, 0)
    return p.clamp(0, size - 1), slope


def _linear_taps(p: Tensor, size: int, padding: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The two grid points of linear interpolation on one axis: (index, weight, d weight / d p) each."""
    if padding == "zeros":
        q, slope = p.clamp(-1, size), ((p >= -1) & (p < size)).to(p.dtype)
        low = torch.floor(q)
    else:
        q, slope = inside(p, size, padding)
        low = torch.floor(q).clamp(max=max(size - 2, 0))
    taps = []
    for index, weight, derivative in ((low, 1 - (q - low), -slope), (low + 1, q - low, slope)):
        valid = (index >= 0) & (index < size)
        taps.append((index.clamp(0, size - 1).long(), torch.where(valid, weight, 0), torch.where(valid, derivative, 0)))
    return taps


def mirrored(index: Tensor, size: int) -> Tensor:
    """Those of the voxels that stand for indices one beyond the image, about the centres of the outer voxels."""
    index = index.abs()
    return torch.where(index < size, index, (2 * (size - 1) - index).clamp(min=0))


def _cubic_taps(p: Tensor, size: int, padding: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The four coefficients of a cubic B-spline on one axis: (index, weight, d weight / d p) each."""
    fade, ramp = torch.ones_like(p), torch.zeros_like(p)
    if padding == "zeros":
        q, slope = p.clamp(0, size - 1), ((p >= 0) & (p < size - 1)).to(p.dtype)
        fade = (1 - (p - q).abs()).clamp(min=0)
        ramp = ((p >= -1) & (p < 0)).to(p.dtype) - ((p >= size - 1) & (p < size)).to(p.dtype)
    else:
        q, slope = inside(p, size, padding)
    low = torch.floor(q).clamp(max=max(size - 2, 0))
    t = q - low
    s = 1 - t
    weights = (s**3 / 6, 2 / 3 - t**2 * (1 + s) / 2, 2 / 3 - s**2 * (1 + t) / 2, t**3 / 6)
    slopes = (-(s**2) / 2, -t * (1 + 3 * s) / 2, s * (1 + 3 * t) / 2, t**2 / 2)
    return [
        (mirrored(low.long() + i - 1, size), fade * w, slope * d + ramp * w)
        for i, (w, d) in enumerate(zip(weights, slopes, strict=True))
    ]


def corners(
    positions: Tensor, sizes: torch.Size, padding: str, mode: str = "linear"
) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """The grid points around every position: index, weight and d weight / d position on each axis."""
    finite = positions.nan_to_num(0.0, 0.0, 0.0)
    taps_of = _cubic_taps if mode == "cubic" else _linear_taps
    for corner in product(*(taps_of(finite[:, k], size, padding) for k, size in enumerate(sizes))):
        index, weights, slopes = zip(*corner, strict=True)
        yield list(index), list(weights), list(slopes)


def weight(weights: list[Tensor], slopes: list[Tensor], *axes: int) -> Tensor:
    """The weight of a corner, derived once by position on each of these axes."""
    return reduce(torch.mul, [slopes[k] if k in axes else w for k, w in enumerate(weights)])


def _nearest(positions: Tensor, sizes: torch.Size, padding: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Nearest grid point on each axis, whether every coordinate is finite, and whether there is a voxel."""
    finite = are_finite(positions)
    p = positions.nan_to_num(0.0, 0.0, 0.0)
    if padding == "zeros":
        rounded = [torch.round(p[:, k]) for k in range(len(sizes))]
    else:
        rounded = [torch.round(inside(p[:, k], size, padding)[0]) for k, size in enumerate(sizes)]
    valid = finite
    for r, size in zip(rounded, sizes, strict=True):
        valid = valid & (r >= 0) & (r < size)
    return [r.clamp(0, size - 1).long() for r, size in zip(rounded, sizes, strict=True)], finite, valid


def gather(image: Tensor, index: list[Tensor]) -> Tensor:
    """image (N, C, *in) at per-axis indices (N, *out) -> (N, C, *out)."""
    n = torch.arange(image.shape[0], device=image.device).view(-1, *[1] * (index[0].ndim - 1))
    at: tuple[Tensor | slice, ...] = (n, slice(None), *index)
    return image[at].movedim(-1, 1)


def _scatter(target: Tensor, index: list[Tensor], value: Tensor) -> None:
    """The adjoint of `gather`: adds value (N, C, *out) to target (N, C, *in) at the indices."""
    flat = torch.zeros_like(index[0])
    for i, size in zip(index, target.shape[2:], strict=True):
        flat = flat * size + i
    flat = flat.flatten(1).unsqueeze(1).expand(-1, target.shape[1], -1)
    target.flatten(2).scatter_add_(2, flat, value.flatten(2))
