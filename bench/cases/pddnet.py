"""PDD-Net, whole: from two images to a displacement field."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

import l2rfast
from l2rfast.discrete import ALPHAS

from .. import peers, plain
from ..harness import OURS, Case, Contestant, Limit
from . import inputs
from .inputs import Size

PUBLISHED = "PyTorch, as the published script"


def whole(size: Size) -> Case:
    # Here, as they bring packages that a machine for the layers alone may lack.
    from l2rfast.methods.discrete.pddnet import Architecture, PDDNet
    from l2rfast.methods.discrete.points import smooth

    torch.manual_seed(0)
    shape = (192, 160, 256) if size.full else (48, 42, 60)
    architecture = Architecture() if size.full else Architecture(grid=(7, 9), search=(5, 5))
    network = PDDNet(architecture).eval()
    with torch.no_grad():  # untrained features differ so little that all displacements are as probable
        network.features.layer3.weight *= 20
    fixed, moving = (inputs.image(shape, seed) - 2 for seed in (1, 3))
    moving = 0.7 * fixed + 0.3 * moving
    coarse = tuple(s // 3 for s in shape)
    ratio = torch.tensor([s / c for s, c in zip(shape, coarse, strict=True)]).view(3, 1, 1, 1)
    identity = peers.identity_grid(coarse)

    @torch.no_grad()
    def ours(fixed: Tensor, moving: Tensor) -> Tensor:
        found: Tensor = network(fixed, moving).displacement
        return found

    def spread(field: Tensor, to: tuple[int, ...]) -> Tensor:
        return F.interpolate(field, size=to, mode="trilinear")

    def moved(image: Tensor, disp: Tensor) -> Tensor:
        return peers.grid_sample(image, peers.sampling_grid(identity, disp))

    def level(at: Tensor, to: Tensor, which: int) -> Tensor:
        on = architecture.grid[which], architecture.search[which], architecture.extent[which]
        points = peers.PDDNet(*on, ALPHAS).chain(at, to)
        halves = torch.tensor(coarse) / 2
        field = (points[0].flip(-1) * halves).t().reshape(1, 3, *[on[0]] * 3)
        return spread(smooth(field, architecture.smoothness), coarse)

    @torch.no_grad()
    def theirs(fixed: Tensor, moving: Tensor) -> Tensor:
        at, to = (plain.obelisk(network.features, image) for image in (fixed, moving))
        first = level(at, to, 0)
        second = level(at, moved(to, first), 1)
        return spread(second + moved(first, second), shape) * ratio

    @torch.no_grad()
    def reference() -> tuple[Tensor, ...]:
        with l2rfast.backend("reference"):
            return (deepcopy(network).double()(fixed.double(), moving.double()).displacement,)

    @torch.no_grad()
    def features(make: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([make(fixed), make(moving)])

    def exact_features() -> tuple[Tensor, ...]:
        own = deepcopy(network).double().features
        with torch.no_grad(), l2rfast.backend("reference"):
            return (torch.cat([own(fixed.double()), own(moving.double())]),)

    stages = {
        f"{OURS}, the features alone": network.features,
        f"{PUBLISHED}, the features alone": lambda image: plain.obelisk(network.features, image),
    }
    return Case(
        "PDD-Net, two images to a field",
        f"OBELISK features, two levels of {' and '.join(map(str, architecture.grid))} control points and "
        f"{architecture.search[0]} displacements along an axis; float32 {inputs.text(shape)}.",
        inputs.nbytes(fixed, moving) * 2 + 4 * 3 * fixed.numel(),
        {
            OURS: Contestant(lambda: ours(fixed, moving)),
            PUBLISHED: Contestant(lambda: theirs(fixed, moving), target=size.on_cpu(15)),
            **{
                name: Contestant(lambda make=make: features(make), reference=exact_features)  # type: ignore[misc]
                for name, make in stages.items()
            },
        },
        reference,
        tolerance=1e-4,
        limits=(Limit("GB", 1.5),) if size.full else (),
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {"pdd-net": [whole]}
