"""The cases: each is made when its turn comes, so that only its own inputs are in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import l2rfast

from . import peers
from .harness import OURS, Case, Contestant, Tensors

Shape = tuple[int, int, int]

SPACING = 4  # of the control points of the discrete search
RADII = (4, 5, 6)  # of the discrete search


@dataclass(frozen=True)
class Size:
    """How large the inputs are: ``dense`` of warping and losses, ``discrete`` of the images to search."""

    dense: Shape
    discrete: Shape
    full: bool

    def target(self, times_faster: float) -> float | None:
        """Targets are for the full size only."""
        return times_faster if self.full else None


SIZES = {
    "quick": Size((80, 96, 112), (80, 64, 64), full=False),
    "full": Size((160, 192, 224), (160, 128, 128), full=True),
}


def _noise(shape: Shape, channels: int, spacing: int, seed: int) -> Tensor:
    """(1, channels, *shape) random numbers, independent every ``spacing`` voxels and linear between."""
    coarse = [math.ceil(s / spacing) + 1 for s in shape]
    values = torch.randn(1, channels, *coarse, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(values, size=shape, mode="trilinear", align_corners=True)


def _image(shape: Shape, seed: int) -> Tensor:
    return 2 + _noise(shape, 1, 8, seed) + 0.5 * _noise(shape, 1, 4, seed + 1)


def _field(shape: Shape, magnitude: float = 6) -> Tensor:
    """Odd multiples of 1/128 voxel, ``magnitude`` voxels in the quadratic mean.

    Positions are then exact in float32 and never on a voxel, where the derivative jumps and rounding would choose.
    """
    field = _noise(shape, 3, 16, seed=0)
    field *= magnitude / field.square().mean().sqrt()
    return (64 * field).floor() / 64 + 1 / 128


def _bytes(*tensors: Tensor) -> int:
    return sum(x.nbytes for x in tensors)


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _exact(run: Callable[..., Tensor | Tensors], *inputs: Tensor) -> Callable[[], Tensors]:
    """The reference backend on the same inputs in float64."""

    def reference() -> Tensors:
        with l2rfast.backend("reference"):
            result = run(*(x.double() for x in inputs))
        return result if isinstance(result, tuple) else (result,)

    return reference


def warp(size: Size) -> Case:
    image, disp = _image(size.dense, seed=1), _field(size.dense)
    identity = peers.identity_grid(size.dense)
    grid = peers.sampling_grid(identity, disp).contiguous()
    return Case(
        "warp",
        f"Trilinear, border repeated, float32 {_text(size.dense)}, smooth field of 6 voxels.",
        _bytes(image, disp, image),
        {
            OURS: Contestant(lambda: l2rfast.warp(image, disp)),
            "F.grid_sample, grid prepared": Contestant(lambda: peers.grid_sample(image, grid), target=size.target(8)),
            "VoxelMorph's layer": Contestant(
                lambda: peers.spatial_transformer(image, disp, identity), target=size.target(14)
            ),
        },
        _exact(l2rfast.warp, image, disp),
    )


def warp_gradient(size: Size) -> Case:
    image, disp = _image(size.dense, seed=1), _field(size.dense)
    grid = peers.sampling_grid(peers.identity_grid(size.dense), disp).contiguous()
    weight = _noise(size.dense, 1, 4, seed=3)

    def both(sample: Callable[[Tensor, Tensor], Tensor], image: Tensor, where: Tensor, weight: Tensor) -> Tensors:
        where = where.detach().requires_grad_()
        result = sample(image, where)
        return result.detach(), *torch.autograd.grad(result, where, weight)

    def by_voxels(result: Tensors) -> Tensors:
        """Gradient by the grid -> gradient by the displacement: from x, y, z in [-1, 1] to voxels of each axis."""
        value, gradient = result
        by_axis = [gradient[..., 2 - k] * 2 / (s - 1) for k, s in enumerate(size.dense)]
        return value, torch.stack(by_axis, 1)

    return Case(
        "warp, forward and backward to the field",
        f"Trilinear, border repeated, float32 {_text(size.dense)}, smooth field of 6 voxels.",
        _bytes(image, disp, weight, image, disp),
        {
            OURS: Contestant(lambda: both(l2rfast.warp, image, disp, weight)),
            "F.grid_sample, grid prepared": Contestant(lambda: both(peers.grid_sample, image, grid, weight), by_voxels),
        },
        _exact(lambda *inputs: both(l2rfast.warp, *inputs), image, disp, weight),
    )


def _features(size: Size) -> tuple[Tensor, Tensor]:
    fixed, moving = (l2rfast.mind_ssc(_image(size.discrete, seed), 1, 2, pool=SPACING) for seed in (1, 3))
    return fixed, moving


def _search(size: Size, radius: int) -> str:
    return f"MIND-SSC features of {_text(size.discrete)} images, grid spacing {SPACING}, half-width {radius}"


def cost_volume(size: Size, radius: int) -> Case:
    fixed, moving = _features(size)

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.correlation(fixed, moving, radius, smoothing=2)

    return Case(
        f"cost volume, half-width {radius}",
        f"{_search(size, radius)}, smoothed twice. ConvexAdam's function finds the arg-min as well.",
        _bytes(fixed, moving) + (2 * radius + 1) ** 3 * fixed[0, 0].nbytes,
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            "convexAdam correlate": Contestant(
                lambda: peers.convexadam_correlate(fixed, moving, radius, SPACING, size.discrete),
                lambda result: (peers.from_convexadam(result[0]),),
                size.target(10),
            ),
        },
        _exact(ours, fixed, moving),
    )


def coupled_convex(size: Size, radius: int) -> Case:
    fixed, moving = _features(size)
    cost = l2rfast.correlation(fixed, moving, radius, smoothing=2)
    their_cost, mesh = peers.to_convexadam(cost), peers.search_mesh(radius)
    argmin = their_cost.argmin(0)
    return Case(
        f"coupled convex, half-width {radius}",
        f"{_search(size, radius)}, six coefficients. ConvexAdam's function is given the first arg-min.",
        _bytes(cost) + 3 * fixed[0, 0].nbytes,
        {
            OURS: Contestant(lambda: l2rfast.coupled_convex(cost)),
            "convexAdam coupled_convex": Contestant(
                lambda: peers.convexadam_coupled_convex(their_cost, argmin, mesh, SPACING, size.discrete),
                target=size.target(10),
            ),
        },
        _exact(l2rfast.coupled_convex, cost),
        # Where two displacements cost nearly the same rounding chooses, and the 27 averages around change.
        tolerance=2e-3,
    )


def mind_ssc(size: Size) -> Case:
    image = _image(size.discrete, seed=1)
    return Case(
        "MIND-SSC",
        f"Radius 1, dilation 2, float32 {_text(size.discrete)}.",
        13 * _bytes(image),
        {
            OURS: Contestant(lambda: l2rfast.mind_ssc(image, 1, 2)),
            "convexAdam MINDSSC": Contestant(lambda: peers.convexadam_mind(image, 1, 2)),
        },
        _exact(lambda image: l2rfast.mind_ssc(image, 1, 2), image),
    )


def local_ncc(size: Size) -> Case:
    a = _image(size.dense, seed=1)
    b = 0.7 * a + 0.3 * _image(size.dense, seed=3)

    def both(loss: Callable[[Tensor, Tensor], Tensor], *images: Tensor) -> Tensors:
        a, b = (x.detach().requires_grad_() for x in images)
        value = loss(a, b)
        return value.detach(), *torch.autograd.grad(value, (a, b))

    return Case(
        "local NCC, forward and backward to both images",
        f"Window 9, float32 {_text(size.dense)}.",
        _bytes(a, b, a, b),
        {
            OURS: Contestant(lambda: both(l2rfast.local_ncc, a, b)),
            "PyTorch, separable convolutions": Contestant(lambda: both(peers.separable_local_ncc, a, b)),
        },
        _exact(lambda *images: both(l2rfast.local_ncc, *images), a, b),
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "warp": [warp],
    "warp-gradient": [warp_gradient],
    "cost-volume": [partial(cost_volume, radius=radius) for radius in RADII],
    "coupled-convex": [partial(coupled_convex, radius=radius) for radius in RADII],
    "mind-ssc": [mind_ssc],
    "local-ncc": [local_ncc],
}
