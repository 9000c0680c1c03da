"""A training step of each of the three networks, as users take it: under autocast, and compiled as one graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operators import noise
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import l2rfast
from l2rfast import losses
from l2rfast.methods.discrete import pddnet
from l2rfast.methods.discrete.training import non_local
from l2rfast.methods.unsupervised import Architecture, VoxelMorph
from l2rfast.methods.weakly_supervised import Architecture as LabelArchitecture
from l2rfast.methods.weakly_supervised import LabelReg, Plan

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def unsupervised(network: nn.Module, fixed: Tensor, moving: Tensor) -> Tensor:
    found = network(moving, fixed)
    warped = l2rfast.warp(moving, found.displacement)
    return losses.diffusion_energy(found.field) - l2rfast.local_ncc(fixed, warped, window=5)


def weakly_supervised(network: nn.Module, fixed: Tensor, moving: Tensor) -> Tensor:
    field = network(moving, fixed)
    warped = l2rfast.warp((moving > 0).float(), field, padding="zeros")
    return losses.multiscale_loss((fixed > 0).float(), warped) + 0.5 * losses.bending_energy(field)


def discrete(network: nn.Module, fixed: Tensor, moving: Tensor) -> Tensor:
    found = network(fixed, moving, probabilities=True)
    masks = [torch.cat([image > 0, image <= 0], 1).float() for image in (fixed, moving)]
    pairs = network.labels(found.choices, *masks)  # type: ignore[operator]
    return torch.stack([non_local(*pair) for pair in pairs]).mean() + 0.01 * losses.diffusion_energy(found.displacement)


def voxelmorph() -> nn.Module:
    network = VoxelMorph(Architecture(3, (4, 4), (4, 4, 4, 4), velocity=True))
    nn.init.normal_(network.field.weight, std=0.1)
    return network


def label_reg() -> nn.Module:
    network = LabelReg(LabelArchitecture(plan=Plan(3, 2, out_levels=(3,))))
    nn.init.normal_(network.network.get_parameter("out.3.weight"), std=0.05)
    return network


def pdd() -> nn.Module:
    return pddnet.PDDNet(pddnet.Architecture("cnn", 8, (6, 8), (5, 3), (0.3, 0.15)))


STEPS: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "unsupervised": (voxelmorph, unsupervised),
    "weakly-supervised": (label_reg, weakly_supervised),
    "discrete": (pdd, discrete),
}


def images(size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    fixed = l2rfast.box_average(noise(1, 1, *size).float(), 2, passes=2)
    return fixed / fixed.std(), fixed.roll(1, 2) / fixed.std()


def gradients(network: nn.Module, loss: Tensor) -> Tensor:
    """Of all parameters, one after the other."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


class Dtypes(TorchDispatchMode):
    """Of what every operator of this package takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "l2rfast":
            every = [t.dtype for t in tree_leaves((args, result)) if isinstance(t, Tensor) and t.is_floating_point()]
            self.taken.setdefault(func._schema.name, set()).update(every)
        return result


@pytest.mark.parametrize(("dtype", "near", "along"), [(torch.bfloat16, 3e-3, 0.9), (torch.float16, 3e-4, 0.99)])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_under_autocast(name: str, dtype: torch.dtype, near: float, along: float) -> None:
    """Convolutions are in 16 bits, all operators of this package in float32: so near is the step to one of float32."""
    torch.manual_seed(0)
    make, loss = STEPS[name]
    network, pair = make(), images((16, 20, 24))
    expected = loss(network, *pair)
    with Dtypes() as seen, torch.autocast("cpu", dtype):
        got = loss(network, *pair)
    assert len(seen.taken) >= 3
    assert all(dtypes <= {torch.float32, torch.float64} for dtypes in seen.taken.values()), seen.taken
    torch.testing.assert_close(got, expected, rtol=near, atol=0)
    wanted, found = gradients(network, expected), gradients(network, got)
    assert found.isfinite().all()
    assert not torch.equal(found, wanted)
    assert F.cosine_similarity(found, wanted, dim=0) > along


@pytest.mark.filterwarnings("ignore")  # of what PyTorch's compiler uses
def test_a_training_step_is_compiled_as_one_graph() -> None:
    """Network, integration, warp, local NCC, regularisation, and all that goes backward.

    Not what the optimiser does: PyTorch's own break the graph themselves where their step begins
    (`torch.optim.optimizer._use_grad_for_differentiable`, 2.13.0).
    """
    torch.manual_seed(0)
    torch._dynamo.reset()
    pair, eager = images((16, 16, 16)), voxelmorph()
    compiled = copy.deepcopy(eager)
    found: list[tuple[list[float], Tensor]] = []
    for network, loss in (
        (eager, unsupervised),
        (compiled, torch.compile(unsupervised, fullgraph=True, backend="aot_eager")),
    ):
        optimizer, values = torch.optim.SGD(network.parameters(), lr=1e-3), []
        for _ in range(2):
            optimizer.zero_grad()
            value = loss(network, *pair)
            value.backward()
            optimizer.step()
            values.append(float(value))
        found.append((values, torch.cat([p.detach().flatten() for p in network.parameters()])))
    (expected, weights), (got, others) = found
    assert expected[0] != expected[1]
    assert got == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(others, weights, rtol=1e-4, atol=1e-6)
