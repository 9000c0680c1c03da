"""The layers of the probabilistic discrete method, beside the PyTorch operations that PDD-Net and its tutorial use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import l2rfast
from l2rfast.discrete import ALPHAS

from .. import peers
from ..harness import OURS, Case, Contestant
from . import inputs
from .inputs import Shape, Size

PDDNET = "PyTorch, as PDD-Net"
CHANNELS = 24


@dataclass(frozen=True)
class Level:
    """A search of PDD-Net: the size of the features, control points and displacements along an axis, their reach.

    Attributes:
        memory, low: what the whole chain is meant to need at most, in bytes, and with ``memory="low"``.
    """

    size: Shape
    grid: int
    search: int
    extent: float
    memory: float
    low: float | None

    @property
    def lattice(self) -> tuple[int, int, float]:
        return self.grid, self.search, self.extent

    @property
    def text(self) -> str:
        return (
            f"{CHANNELS} features of {inputs.text(self.size)}, {self.grid}^3 control points, {self.search}^3 "
            f"displacements up to {self.extent} of half the size"
        )

    @property
    def nbytes(self) -> int:
        """Of the cost volume."""
        return 4 * self.grid**3 * self.search**3

    def features(self) -> tuple[Tensor, Tensor]:
        fixed, moving = (0.4 * (inputs.image(self.size, seed, CHANNELS) - 2) for seed in (1, 3))
        return fixed, moving

    def costs(self) -> Tensor:
        return l2rfast.lattice_correlation(*self.features(), *self.lattice)

    def peer(self) -> peers.PDDNet:
        return peers.PDDNet(*self.lattice, ALPHAS)

    def displacement(self, points: Tensor) -> Tensor:
        """The peer's, as ours."""
        halves = torch.tensor(self.size).to(points) / 2
        return (points[0].flip(-1) * halves).t().reshape(1, 3, *[self.grid] * 3)


LEVELS = {
    True: (
        Level((64, 53, 85), 29, 11, 0.25, 0.6e9, 0.25e9),
        Level((77, 56, 95), 32, 15, 0.4, 1.2e9, None),
    ),
    False: (Level((32, 27, 43), 15, 7, 0.25, 0.6e9, 0.25e9), Level((38, 28, 47), 16, 9, 0.4, 1.2e9, None)),
}


def by_point(cost: Tensor) -> Tensor:
    """(1, *search, *grid) -> (1, control points, *search), as the peer has it."""
    return cost.flatten(4).movedim(-1, 1).contiguous()


def by_displacement(cost: Tensor) -> Tensor:
    """The inverse."""
    grid = round(cost.shape[1] ** (1 / 3))
    return cost.movedim(1, -1).unflatten(-1, [grid] * 3)


def lattice_correlation(size: Size) -> Case:
    level = LEVELS[size.full][0]
    fixed, moving = level.features()
    peer = level.peer()

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.lattice_correlation(fixed, moving, *level.lattice)

    return Case(
        "lattice correlation",
        level.text + ".",
        inputs.nbytes(fixed, moving) + level.nbytes,
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            PDDNET: Contestant(
                lambda: peer.correlation(fixed, moving), lambda result: (by_displacement(result),), size.target(30)
            ),
        },
        inputs.exact(ours, fixed, moving),
    )


def min_convolution(size: Size) -> Case:
    level = LEVELS[size.full][0]
    cost, peer = level.costs(), level.peer()
    theirs = by_point(cost)
    pooled = partial(l2rfast.min_convolution, method="pooled")
    exact = partial(l2rfast.min_convolution, weight=0.3)
    return Case(
        "min-convolution",
        f"{level.text}; the exact lower envelope, weight 0.3, beside its approximation by pooling.",
        2 * level.nbytes,
        {
            OURS: Contestant(lambda: exact(cost)),
            "l2rfast, pooled": Contestant(
                lambda: pooled(cost), target=size.target(0.9), reference=inputs.exact(pooled, cost)
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
    level = LEVELS[size.full][0]
    cost, peer = level.costs(), level.peer()
    theirs = by_point(cost)
    return Case(
        "mean field",
        level.text + ".",
        2 * level.nbytes,
        {
            OURS: Contestant(lambda: l2rfast.mean_field(cost)),
            PDDNET: Contestant(lambda: peer.mean_field(theirs), lambda result: (by_displacement(result),)),
        },
        inputs.exact(l2rfast.mean_field, cost),
    )


def soft_argmin(size: Size) -> Case:
    level = LEVELS[size.full][0]
    cost, peer = level.costs(), level.peer()
    theirs = by_point(cost)
    steps = l2rfast.lattice_steps(level.size, level.search, level.extent)

    def ours(cost: Tensor) -> Tensor:
        result = l2rfast.soft_argmin(cost, 1.0, dilation=steps)
        assert isinstance(result, Tensor)
        return result

    return Case(
        "soft arg-min",
        level.text + ".",
        level.nbytes,
        {
            OURS: Contestant(lambda: ours(cost)),
            PDDNET: Contestant(lambda: peer.soft_argmin(theirs, 1.0), lambda result: (level.displacement(result),)),
        },
        inputs.exact(ours, cost),
    )


def chain(size: Size, which: int, memory: str) -> Case:
    level = LEVELS[size.full][which]
    fixed, moving = level.features()
    peer = level.peer()
    result = 12 * level.grid**3

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.discrete_displacement(fixed, moving, *level.lattice, memory=memory)

    bound = level.memory if memory == "normal" else level.low
    contestants = {OURS: Contestant(lambda: ours(fixed, moving))}
    if memory == "normal":
        contestants[PDDNET] = Contestant(
            lambda: peer.chain(fixed, moving), lambda result: (level.displacement(result),), size.target(20)
        )
    return Case(
        f"discrete displacement, {level.grid} and {level.search}, {memory} memory",
        f"{level.text}: correlation, min-convolution and mean field, both again, soft arg-min, without gradients.",
        inputs.nbytes(fixed, moving) + result,
        contestants,
        inputs.exact(ours, fixed, moving),
        memory_target=None if bound is None else size.target(bound / result),
    )


def tutorial(size: Size) -> Case:
    shape = (80, 64) if size.full else (40, 32)
    fixed, moving = (torch.randn(1, CHANNELS, *shape, generator=torch.Generator().manual_seed(s)) for s in (1, 2))

    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        return l2rfast.correlation(fixed, moving, 5)

    return Case(
        "correlation in 2-D",
        f"{CHANNELS} features of {' x '.join(map(str, shape))}, width 11.",
        inputs.nbytes(fixed, moving) + 4 * 11**2 * fixed[0, 0].numel(),
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            "F.unfold": Contestant(lambda: peers.unfolded_correlation(fixed, moving, 5), target=size.target(10)),
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
