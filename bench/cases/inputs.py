"""What the cases are made of: sizes, images, fields, and the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import l2rfast

from .. import machine
from ..harness import Limit, Tensors

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Search:
    """A lattice to search: the size of the features, control points and displacements along an axis, their reach.

    Attributes:
        memory, low: what the whole chain is meant to need at most, in GB, and where it is to need little.
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
    """How large the inputs are.

    Attributes:
        dense, discrete: of warping and losses; of the images to search densely.
        searches: on lattices.
        many: items and channels of a batch, and its size.
        edges: of the cubes that show how cost grows with the size.
        middle: of the cubes that show how it grows with anything else.
    """

    dense: Shape
    discrete: Shape
    searches: tuple[Search, Search]
    many: tuple[int, int, Shape]
    edges: tuple[int, int, int, int, int, int]
    middle: int
    full: bool

    @property
    def half(self) -> Shape:
        """Half the dense one: where registration networks integrate velocities."""
        d, h, w = self.dense
        return d // 2, h // 2, w // 2

    def on_cpu(self, bound: float | None) -> float | None:
        """A target for CPUs; targets are for the full size only."""
        return bound if self.full and not machine.on_a_gpu() else None

    def on_gpu(self, bound: float | None) -> float | None:
        """A target for GPUs."""
        return bound if self.full and machine.on_a_gpu() else None


def limits(**bounds: float | None) -> tuple[Limit, ...]:
    """Those that apply, on ``x_floor``, ``x_memory``, ``GB`` and ``ms``."""
    return tuple(Limit(name.replace("_", " "), bound) for name, bound in bounds.items() if bound is not None)


SIZES = {
    # Of which Triton's interpreter makes something in a second.
    "tiny": Size(
        (20, 24, 28),
        (20, 16, 16),
        (Search((8, 7, 11), 5, 3, 0.25, 0.6, 0.25), Search((10, 8, 12), 5, 3, 0.4, 1.2, None)),
        (1, 2, (16, 16, 16)),
        (8, 10, 12, 14, 16, 20),
        16,
        full=False,
    ),
    "quick": Size(
        (80, 96, 112),
        (80, 64, 64),
        (Search((32, 27, 43), 15, 7, 0.25, 0.6, 0.25), Search((38, 28, 47), 16, 9, 0.4, 1.2, None)),
        (1, 4, (48, 48, 48)),
        (16, 24, 32, 40, 48, 64),
        48,
        full=False,
    ),
    # PDD-Net's first level of two, and its only one.
    "full": Size(
        (160, 192, 224),
        (160, 128, 128),
        (Search((64, 53, 85), 29, 11, 0.25, 0.6, 0.25), Search((77, 56, 95), 32, 15, 0.4, 1.2, None)),
        (2, 16, (128, 128, 128)),
        (64, 96, 128, 192, 256, 384),
        128,
        full=True,
    ),
}


def noise(shape: Shape, channels: int, spacing: int, seed: int) -> Tensor:
    """(1, channels, *shape) random numbers, independent every ``spacing`` voxels and linear between."""
    coarse = [math.ceil(s / spacing) + 1 for s in shape]
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same numbers on every device
    values = torch.randn(1, channels, *coarse, generator=generator, device="cpu").to(torch.get_default_device())
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


def weighted(run: Callable[..., Tensor], a: Tensor, b: Tensor, weight: Tensor) -> Tensors:
    """`with_gradients` to both of two inputs, the weight an input as well."""
    return with_gradients(run, (a, b), (0, 1), weight)
