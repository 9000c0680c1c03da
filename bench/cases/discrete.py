"""The discrete search: its features, cost volume and optimisation, beside ConvexAdam's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

import l2rfast

from .. import peers
from ..harness import OURS, Case, Contestant
from . import inputs
from .inputs import Size

SPACING = 4  # of the control points
RADII = (4, 5, 6)


def _features(size: Size) -> tuple[Tensor, Tensor]:
    fixed, moving = (l2rfast.mind_ssc(inputs.image(size.discrete, seed), 1, 2, pool=SPACING) for seed in (1, 3))
    return fixed, moving


def _search(size: Size, radius: int) -> str:
    return f"MIND-SSC features of {inputs.text(size.discrete)} images, grid spacing {SPACING}, half-width {radius}"


def cost_volume(size: Size, radius: int) -> Case:
    fixed, moving = _features(size)

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.correlation(fixed, moving, radius, smoothing=2)

    return Case(
        f"cost volume, half-width {radius}",
        f"{_search(size, radius)}, smoothed twice. ConvexAdam's function finds the arg-min as well.",
        inputs.nbytes(fixed, moving) + (2 * radius + 1) ** 3 * fixed[0, 0].nbytes,
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            "convexAdam correlate": Contestant(
                lambda: peers.convexadam_correlate(fixed, moving, radius, SPACING, size.discrete),
                lambda result: (peers.from_convexadam(result[0]),),
                size.on_cpu(10),
            ),
        },
        inputs.exact(ours, fixed, moving),
    )


def coupled_convex(size: Size, radius: int) -> Case:
    fixed, moving = _features(size)
    cost = l2rfast.correlation(fixed, moving, radius, smoothing=2)
    their_cost, mesh = peers.to_convexadam(cost), peers.search_mesh(radius)
    argmin = their_cost.argmin(0)
    return Case(
        f"coupled convex, half-width {radius}",
        f"{_search(size, radius)}, six coefficients. ConvexAdam's function is given the first arg-min.",
        inputs.nbytes(cost) + 3 * fixed[0, 0].nbytes,
        {
            OURS: Contestant(lambda: l2rfast.coupled_convex(cost)),
            "convexAdam coupled_convex": Contestant(
                lambda: peers.convexadam_coupled_convex(their_cost, argmin, mesh, SPACING, size.discrete),
                target=size.on_cpu(10),
            ),
        },
        inputs.exact(l2rfast.coupled_convex, cost),
        # Where two displacements cost nearly the same rounding chooses, and the 27 averages around change.
        tolerance=2e-3,
    )


def convex(size: Size, radius: int) -> Case:
    """Both, one after the other, as ConvexAdam's registration has them."""
    fixed, moving = _features(size)
    mesh = peers.search_mesh(radius)

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.coupled_convex(l2rfast.correlation(fixed, moving, radius, smoothing=2))

    def theirs() -> Tensor:
        cost, argmin = peers.convexadam_correlate(fixed, moving, radius, SPACING, size.discrete)
        return peers.convexadam_coupled_convex(cost, argmin, mesh, SPACING, size.discrete)

    return Case(
        f"cost volume and coupled convex, half-width {radius}",
        f"{_search(size, radius)}.",
        inputs.nbytes(fixed, moving) + 3 * fixed[0, 0].nbytes,
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            "convexAdam correlate, coupled_convex": Contestant(theirs, target=size.on_cpu(15)),
        },
        inputs.exact(ours, fixed, moving),
        tolerance=2e-3,  # as above
    )


def mind_ssc(size: Size) -> Case:
    image = inputs.image(size.discrete, seed=1)
    return Case(
        "MIND-SSC",
        f"Radius 1, dilation 2, float32 {inputs.text(size.discrete)}.",
        13 * inputs.nbytes(image),
        {
            OURS: Contestant(lambda: l2rfast.mind_ssc(image, 1, 2)),
            "convexAdam MINDSSC": Contestant(lambda: peers.convexadam_mind(image, 1, 2)),
        },
        inputs.exact(lambda image: l2rfast.mind_ssc(image, 1, 2), image),
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "cost-volume": [partial(cost_volume, radius=radius) for radius in RADII],
    "coupled-convex": [partial(coupled_convex, radius=radius) for radius in RADII],
    "convex": [partial(convex, radius=radius) for radius in RADII],
    "mind-ssc": [mind_ssc],
}
