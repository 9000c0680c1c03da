"""Every public operation on a GPU waits for nothing, forward and backward: it can be recorded in a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from graphs import gpu
from operators import OPERATIONS, Operation
from samples import Sample
from torch import Tensor
from torch.utils._pytree import tree_leaves

import l2rfast
from l2rfast._dispatch import OPERATORS
from l2rfast.label_losses import MEASURES
from l2rfast.methods.discrete.pddnet import Architecture, PDDNet
from l2rfast.methods.unsupervised.network import VoxelMorph
from l2rfast.methods.weakly_supervised.model import Architecture as LabelArchitecture
from l2rfast.methods.weakly_supervised.model import LabelReg


def kinds(samples: list[Sample]) -> Iterator[Sample]:
    """Those that bring another number of axes, or another word or type of an option."""
    known: set[tuple[str, str]] = set()
    for sample in samples:
        of = {(name, str(x if isinstance(x, str | bool) else type(x))) for name, x in sample.options.items()}
        of |= {(name, str(x.ndim)) for name, x in sample.inputs.items()}
        if not of <= known:
            known |= of
            yield sample


def on_gpu(value: Tensor, *, learned: bool) -> Tensor:
    return value.float().to("meta").requires_grad_(learned)


def backward(result: object) -> None:
    loss = sum(part.sum() for part in tree_leaves(result))
    if isinstance(loss, Tensor) and loss.requires_grad:
        loss.backward()


def by_backends() -> Iterator[Any]:
    """Each operation by Triton's launchers, where there are some, and by the definition."""
    for operation in OPERATIONS:
        for name in OPERATORS[operation.made_of or operation.name].backends():
            if name in ("triton", "reference"):
                yield pytest.param(operation, name, id=f"{operation.name}-{name}")


@pytest.mark.parametrize(("operation", "backend"), list(by_backends()))
def test_an_operation_waits_for_nothing(operation: Operation, backend: str) -> None:
    with gpu() as seen, nullcontext() if backend == "triton" else l2rfast.backend(backend):
        for sample in kinds(operation.samples):
            inputs = {name: on_gpu(x, learned=name in operation.differentiable) for name, x in sample.inputs.items()}
            seen.clear()  # of bringing them there
            backward(operation.function(**inputs, **sample.options))
            assert not seen, sample.name


IMAGES = {"fixed": (2, 1, 12, 14, 10), "moving": (2, 1, 12, 14, 10)}
COST = {"cost": (2, 3, 3, 5, 4)}
on = partial(l2rfast.discrete_displacement, grid_size=4, search_size=3, search_extent=0.4)
LAYERS: list[Any] = [
    ("discrete_displacement", on, IMAGES),
    ("discrete_displacement low exact", partial(on, memory="low", method="exact", weight=0.3, entropy=True), IMAGES),
    ("min_convolution", partial(l2rfast.min_convolution, weight=0.3), COST),
    ("soft_argmin", partial(l2rfast.soft_argmin, beta=2.0, dilation=(1.5, 2.0), probabilities=True), COST),
    ("mean_field", l2rfast.mean_field, COST),
    ("mutual_information", lambda fixed, moving: l2rfast.losses.mutual_information(fixed, moving), IMAGES),
    ("gaussian", lambda fixed, moving: l2rfast.losses.mutual_information(fixed, moving, window="gaussian"), IMAGES),
    *[
        (measure, lambda fixed, moving, m=measure: l2rfast.losses.multiscale_loss(fixed, moving, m), IMAGES)
        for measure in MEASURES
    ],
]


@pytest.mark.parametrize(("layer", "sizes"), [pytest.param(*rest, id=name) for name, *rest in LAYERS])
def test_what_is_made_of_operations_waits_for_nothing(layer: Any, sizes: dict[str, tuple[int, ...]]) -> None:
    with gpu() as seen:
        backward(layer(**{name: torch.empty(size, device="meta", requires_grad=True) for name, size in sizes.items()}))
        assert not seen


@pytest.mark.parametrize(
    "network",
    [
        lambda: PDDNet(Architecture(grid=(5, 6), search=(3, 3))),
        lambda: PDDNet(Architecture("cnn", grid=(5,), search=(3,), extent=(0.3,), min_convolution="exact")),
        VoxelMorph,
        lambda: LabelReg(LabelArchitecture(start="centre")),
    ],
    ids=["PDD-Net", "PDD-Net exact", "VoxelMorph", "LabelReg"],
)
def test_a_step_of_training_waits_for_nothing(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which "meta" does not have
    with torch.device("meta"):
        net, images = network(), torch.empty(2, 1, 1, 32, 32, 32)
    with gpu() as seen:
        found = net(*images)
        field = found if isinstance(found, Tensor) else found.displacement
        losses = l2rfast.local_ncc(images[0], l2rfast.warp(images[1], field)), l2rfast.losses.diffusion_energy(field)
        (losses[1] - losses[0]).backward()
        assert not seen
