"""Fields at control points: the smooth one nearest to them, and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2rfast import affine_warp
from l2rfast.errors import InputError
from l2rfast.kernels.common.constants import numbers


class Choice(NamedTuple):
    """What a network knows at control points.

    Attributes:
        points: (N, ndim, *grid), the expected displacements, in voxels of the image.
        entropy: (N, 1, *grid) of the displacements, in nats: 0 where one of them is certain.
        probabilities: (N, *search, *grid), where they were asked for.
        before: (N, ndim, *features), by how many voxels of the features moving was warped before.
    """

    points: Tensor
    entropy: Tensor
    probabilities: Tensor | None
    before: Tensor | None


class Prediction(NamedTuple):
    """What a network says of two images.

    Attributes:
        displacement: (N, ndim, *spatial), in voxels.
        choices: of each warp.
    """

    displacement: Tensor
    choices: tuple[Choice, ...]


def smooth(points: Tensor, weight: float) -> Tensor:
    """The smooth field nearest to displacements at control points: what minimises

        sum |u - d|^2 + weight * sum of |u(x + e_k) - u(x)|^2 over neighbours

    In the cosine basis, in which differences are diagonal, a quotient for each frequency: exact, and differentiable.

    Args:
        points: (N, ndim, *grid).
        weight: at least 0.

    Returns:
        The same shape.
    """
    if weight == 0:
        return points
    bases = [_cosines(n, points) for n in points.shape[2:]]
    spectrum = _transformed(points, bases)
    of: dict[str, Any] = {"dtype": points.dtype, "device": points.device}
    squares = [2 - 2 * torch.cos(math.pi * torch.arange(n, **of) / n) for n in points.shape[2:]]
    total = torch.stack(torch.meshgrid(*squares, indexing="ij")).sum(0)
    return _transformed(spectrum / (1 + weight * total), [basis.T for basis in bases])


def _cosines(n: int, like: Tensor) -> Tensor:
    """(n, n), orthonormal, beside a tensor: the discrete cosine transform of type II."""
    x = torch.arange(n, dtype=torch.float64, device=like.device)
    k = x[:, None]
    basis = torch.cos(math.pi * k * (x + 0.5) / n) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.to(like)


def _transformed(values: Tensor, bases: Sequence[Tensor]) -> Tensor:
    for axis, basis in enumerate(bases, 2):
        values = torch.movedim(torch.movedim(values, axis, -1) @ basis.T, -1, axis)
    return values


def spread(field: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """A field at other places of the same box, linear between, the border repeated; the unit of its values is kept.

    Args:
        field: (N, C, *given).
        size: of the places.
        align_corners: whether the first and last places of both are the same, or their cells fill the same box.
    """
    given = field.shape[2:]
    if align_corners:
        steps = [(g - 1) / max(s - 1, 1) for g, s in zip(given, size, strict=True)]
        starts = [0.0] * len(steps)
    else:
        steps = [g / s for g, s in zip(given, size, strict=True)]
        starts = [(step - 1) / 2 for step in steps]
    matrix = torch.cat([numbers(steps, field).diag(), numbers(starts, field)[:, None]], 1)[None]
    return affine_warp(field, matrix, list(size))


def check_images(fixed: Tensor, moving: Tensor, ndim: int, least: int) -> None:
    """
    Raises:
        InputError: no two images of one shape, and of so many voxels a side.
    """
    if fixed.ndim != ndim + 2 or fixed.shape != moving.shape or fixed.shape[1] != 1 or min(fixed.shape[2:]) < least:
        raise InputError(
            f"fixed, moving: expected (N, 1, {'D, ' * (ndim - 2)}H, W) of one shape, at least {least} voxels a side, "
            f"got {tuple(fixed.shape)} and {tuple(moving.shape)}"
        )
