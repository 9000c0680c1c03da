"""What the cases are made of: sizes, images, fields, and the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import l2rfast

from ..harness import Tensors

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Search:
    """A lattice to search: the size of the features, control points and displacements along an axis, their reach.

    Attributes:
        memory, low: what the whole chain is meant to need at most, in bytes, and where it is to need little.
    """

    size: Shape
    grid: int
    width: int
    extent: float
    memory: float
    low: float | None

    @property
    def lattice(self) -> tuple[int, int, float]:
        return self.grid, self.width, self.extent


@dataclass(frozen=True)
class Size:
    """How large the inputs are: ``dense`` of warping and losses, ``discrete`` of the images to search densely."""

    dense: Shape
    discrete: Shape
    searches: tuple[Search, Search]
    full: bool

    @property
    def half(self) -> Shape:
        """Half the dense one: where registration networks integrate velocities."""
        d, h, w = self.dense
        return d // 2, h // 2, w // 2

    def target(self, bound: float | None) -> float | None:
        """Targets are for the full size only."""
        return bound if self.full else None


SIZES = {
    "quick": Size(
        (80, 96, 112),
        (80, 64, 64),
        (Search((32, 27, 43), 15, 7, 0.25, 0.6e9, 0.25e9), Search((38, 28, 47), 16, 9, 0.4, 1.2e9, None)),
        full=False,
    ),
    # PDD-Net's first level of two, and its only one.
    "full": Size(
        (160, 192, 224),
        (160, 128, 128),
        (Search((64, 53, 85), 29, 11, 0.25, 0.6e9, 0.25e9), Search((77, 56, 95), 32, 15, 0.4, 1.2e9, None)),
        full=True,
    ),
}


def noise(shape: Shape, channels: int, spacing: int, seed: int) -> Tensor:
    """(1, channels, *shape) random numbers, independent every ``spacing`` voxels and linear between."""
    coarse = [math.ceil(s / spacing) + 1 for s in shape]
    values = torch.randn(1, channels, *coarse, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(values, size=shape, mode="trilinear", align_corners=True)


def image(shape: Shape, seed: int, channels: int = 1) -> Tensor:
    """(1, channels, *shape), about 2, with two scales of detail."""
    return 2 + noise(shape, channels, 8, seed) + 0.5 * noise(shape, channels, 4, seed + 1)


def smooth_field(shape: Shape, magnitude: float = 6) -> Tensor:
    """(1, 3, *shape), ``magnitude`` voxels in the quadratic mean, bending as a registration's does: hardly a fold."""
    field = noise(shape, 3, 48, seed=0)
    field *= magnitude / field.square().mean().sqrt()
    return field


def displacement(shape: Shape) -> Tensor:
    """A smooth field rounded to odd multiples of 1/128 voxel.

    Positions are then exact in float32 and never on a voxel, where the derivative jumps and rounding would choose.
    """
    return (64 * smooth_field(shape)).floor() / 64 + 1 / 128


def nbytes(*tensors: Tensor) -> int:
    """Of all together."""
    return sum(x.nbytes for x in tensors)


def text(shape: Shape) -> str:
    """For people."""
    return " x ".join(map(str, shape))


def exact(run: Callable[..., Tensor | Tensors], *inputs: Tensor) -> Callable[[], Tensors]:
    """The reference backend on the same inputs in float64; integers stay as they are."""

    def reference() -> Tensors:
        with l2rfast.backend("reference"):
            result = run(*(x.double() if x.is_floating_point() else x for x in inputs))
        return result if isinstance(result, tuple) else (result,)

    return reference


def with_gradients(
    run: Callable[..., Tensor], inputs: Tensors, to: Sequence[int], weight: Tensor | None = None
) -> Tensors:
    """``run(*inputs)``, and the gradients of its weighted sum to the inputs of the indices ``to``.

    One forward and one backward pass; a scalar needs no weight.
    """
    leaves = [x.detach().requires_grad_(i in to) for i, x in enumerate(inputs)]
    result = run(*leaves)
    return result.detach(), *torch.autograd.grad(result, [leaves[i] for i in to], weight)
