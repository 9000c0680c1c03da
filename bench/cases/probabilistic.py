"""The layers of the probabilistic discrete method, beside the PyTorch operations that PDD-Net and its tutorial use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import l2rfast
from l2rfast.discrete import ALPHAS

from .. import peers
from ..harness import OURS, Case, Contestant
from . import inputs
from .inputs import Search, Size

PDDNET = "PyTorch, as PDD-Net"
CHANNELS = 24


def text(search: Search) -> str:
    return (
        f"{CHANNELS} features of {inputs.text(search.size)}, {search.grid}^3 control points, {search.width}^3 "
        f"displacements up to {search.extent} of half the size"
    )


def nbytes(search: Search) -> int:
    """Of the cost volume."""
    return 4 * search.grid**3 * search.width**3


def features(search: Search) -> tuple[Tensor, Tensor]:
    fixed, moving = (0.4 * (inputs.image(search.size, seed, CHANNELS) - 2) for seed in (1, 3))
    return fixed, moving


def costs(search: Search) -> Tensor:
    return l2rfast.lattice_correlation(*features(search), *search.lattice)


def layers(search: Search) -> peers.PDDNet:
    return peers.PDDNet(*search.lattice, ALPHAS)


def displacement(search: Search, points: Tensor) -> Tensor:
    """The peer's, as ours."""
    halves = torch.tensor(search.size).to(points) / 2
    return (points[0].flip(-1) * halves).t().reshape(1, 3, *[search.grid] * 3)


def by_point(cost: Tensor) -> Tensor:
    """(1, *search, *grid) -> (1, control points, *search), as the peer has it."""
    return cost.flatten(4).movedim(-1, 1).contiguous()


def by_displacement(cost: Tensor) -> Tensor:
    """The inverse."""
    grid = round(cost.shape[1] ** (1 / 3))
    return cost.movedim(1, -1).unflatten(-1, [grid] * 3)


def lattice_correlation(size: Size) -> Case:
    search = size.searches[0]
    fixed, moving = features(search)
    peer = layers(search)

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.lattice_correlation(fixed, moving, *search.lattice)

    return Case(
        "lattice correlation",
        f"{text(search)}.",
        inputs.nbytes(fixed, moving) + nbytes(search),
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            PDDNET: Contestant(
                lambda: peer.correlation(fixed, moving), lambda result: (by_displacement(result),), size.on_cpu(30)
            ),
        },
        inputs.exact(ours, fixed, moving),
    )


def min_convolution(size: Size) -> Case:
    search = size.searches[0]
    cost, peer = costs(search), layers(search)
    theirs = by_point(cost)
    pooled = partial(l2rfast.min_convolution, method="pooled")
    exact = partial(l2rfast.min_convolution, weight=0.3)
    return Case(
        "min-convolution",
        f"{text(search)}; the exact lower envelope, weight 0.3, beside its approximation by pooling.",
        2 * nbytes(search),
        {
            OURS: Contestant(lambda: exact(cost)),
            "l2rfast, pooled": Contestant(
                lambda: pooled(cost), target=size.on_cpu(1), reference=inputs.exact(pooled, cost)
            ),
            PDDNET: Contestant(
                lambda: peer.min_convolution(theirs),
                lambda result: (by_displacement(result),),
                reference=inputs.exact(pooled, cost),
            ),
        },
        inputs.exact(exact, cost),
    )


def mean_field(size: Size) -> Case:
    search = size.searches[0]
    cost, peer = costs(search), layers(search)
    theirs = by_point(cost)
    return Case(
        "mean field",
        f"{text(search)}.",
        2 * nbytes(search),
        {
            OURS: Contestant(lambda: l2rfast.mean_field(cost)),
            PDDNET: Contestant(lambda: peer.mean_field(theirs), lambda result: (by_displacement(result),)),
        },
        inputs.exact(l2rfast.mean_field, cost),
    )


def soft_argmin(size: Size) -> Case:
    search = size.searches[0]
    cost, peer = costs(search), layers(search)
    theirs = by_point(cost)
    steps = l2rfast.lattice_steps(search.size, search.width, search.extent)

    def ours(cost: Tensor) -> Tensor:
        result = l2rfast.soft_argmin(cost, 1.0, dilation=steps)
        assert isinstance(result, Tensor)
        return result

    return Case(
        "soft arg-min",
        f"{text(search)}.",
        nbytes(search),
        {
            OURS: Contestant(lambda: ours(cost)),
            PDDNET: Contestant(lambda: peer.soft_argmin(theirs, 1.0), lambda result: (displacement(search, result),)),
        },
        inputs.exact(ours, cost),
    )


def chain(size: Size, which: int, memory: str) -> Case:
    search = size.searches[which]
    fixed, moving = features(search)
    peer = layers(search)
    result = 12 * search.grid**3

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.discrete_displacement(fixed, moving, *search.lattice, memory=memory)

    bound = search.memory if memory == "normal" else search.low
    contestants = {OURS: Contestant(lambda: ours(fixed, moving))}
    if memory == "normal":
        contestants[PDDNET] = Contestant(
            lambda: peer.chain(fixed, moving), lambda result: (displacement(search, result),), size.on_cpu(20)
        )
    return Case(
        f"discrete displacement, {search.grid} and {search.width}, {memory} memory",
        f"{text(search)}: correlation, min-convolution and mean field, both again, soft arg-min, without gradients.",
        inputs.nbytes(fixed, moving) + result,
        contestants,
        inputs.exact(ours, fixed, moving),
        limits=inputs.limits(GB=size.on_cpu(bound), ms=size.on_gpu(10) if which == 0 and memory == "normal" else None),
    )


def tutorial(size: Size) -> Case:
    shape = (80, 64) if size.full else (40, 32)
    fixed, moving = (inputs.image((1, *shape), seed, CHANNELS)[:, :, 0] for seed in (1, 3))

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.correlation(fixed, moving, 5)

    return Case(
        "correlation in 2-D",
        f"{CHANNELS} features of {' x '.join(map(str, shape))}, width 11.",
        inputs.nbytes(fixed, moving) + 4 * 11**2 * fixed[0, 0].numel(),
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            "F.unfold": Contestant(lambda: peers.unfolded_correlation(fixed, moving, 5), target=size.on_cpu(10)),
        },
        inputs.exact(ours, fixed, moving),
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "lattice-correlation": [lattice_correlation],
    "min-convolution": [min_convolution],
    "mean-field": [mean_field],
    "soft-argmin": [soft_argmin],
    "discrete-displacement": [
        partial(chain, which=0, memory="normal"),
        partial(chain, which=0, memory="low"),
        partial(chain, which=1, memory="normal"),
    ],
    "correlation-2d": [tutorial],
}
