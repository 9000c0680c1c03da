"""The modules are the functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from samples import field, noise, normalised, positions
from torch import Tensor, nn

import l2rfast
import l2rfast.nn

SIZE = (5, 4)


@dataclass(frozen=True)
class Case:
    module: nn.Module
    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    text: str
    learns: tuple[str, ...] = ()


IMAGE, DISP = noise(2, 3, *SIZE), field(SIZE, SIZE)
GRID, MATRIX = normalised(positions(SIZE, SIZE), SIZE, False), torch.eye(2, 3) + noise(2, 2, 3) / 10
COST, EXACT = noise(2, 3, 5, *SIZE), l2rfast.nn.MinConvolution(0.3)
assert EXACT.log_weight is not None
LATTICE, ON = (3, (3, 5), 0.4), ("grid_size", "search_size", "search_extent")
CASES = [
    Case(l2rfast.nn.Warp(), l2rfast.warp, (IMAGE, DISP), {}, "Warp(mode='linear', padding='border')"),
    Case(
        l2rfast.nn.Warp(mode="nearest", padding="zeros"),
        l2rfast.warp,
        (IMAGE, DISP),
        {"mode": "nearest", "padding": "zeros"},
        "Warp(mode='nearest', padding='zeros')",
    ),
    Case(
        l2rfast.nn.GridSample(),
        l2rfast.grid_sample,
        (IMAGE, GRID),
        {},
        "GridSample(mode='bilinear', padding_mode='zeros', align_corners=None)",
    ),
    Case(
        l2rfast.nn.GridSample("nearest", "border", True),
        l2rfast.grid_sample,
        (IMAGE, GRID),
        {"mode": "nearest", "padding_mode": "border", "align_corners": True},
        "GridSample(mode='nearest', padding_mode='border', align_corners=True)",
    ),
    Case(
        l2rfast.nn.AffineWarp(),
        l2rfast.affine_warp,
        (IMAGE, MATRIX),
        {},
        "AffineWarp(size=None, mode='linear', padding='border')",
    ),
    Case(
        l2rfast.nn.AffineWarp((3, 6), mode="nearest", padding="zeros"),
        l2rfast.affine_warp,
        (IMAGE, MATRIX),
        {"size": (3, 6), "mode": "nearest", "padding": "zeros"},
        "AffineWarp(size=(3, 6), mode='nearest', padding='zeros')",
    ),
    Case(l2rfast.nn.Compose(), l2rfast.compose, (DISP, DISP.flip(0)), {}, "Compose()"),
    Case(
        l2rfast.nn.IntegrateVelocity(),
        l2rfast.integrate_velocity,
        (DISP,),
        {},
        "IntegrateVelocity(steps=7, keep=False)",
    ),
    Case(
        l2rfast.nn.IntegrateVelocity(3, keep=True),
        l2rfast.integrate_velocity,
        (DISP,),
        {"steps": 3, "keep": True},
        "IntegrateVelocity(steps=3, keep=True)",
    ),
    Case(l2rfast.nn.JacobianDeterminant(), l2rfast.jacobian_determinant, (DISP,), {}, "JacobianDeterminant()"),
    Case(
        l2rfast.nn.Correlation((1, 2), metric="dot", dilation=2, padding="border", smoothing=1),
        l2rfast.correlation,
        (IMAGE, IMAGE.flip(2)),
        {"radius": (1, 2), "metric": "dot", "dilation": 2, "padding": "border", "smoothing": 1},
        "Correlation(radius=(1, 2), metric='dot', dilation=2, padding='border', smoothing=1)",
    ),
    Case(
        l2rfast.nn.LatticeCorrelation(*LATTICE, metric="dot", align_corners=True),
        l2rfast.lattice_correlation,
        (IMAGE, IMAGE.flip(2)),
        dict(zip(ON, LATTICE, strict=True)) | {"metric": "dot", "align_corners": True},
        "LatticeCorrelation(grid_size=3, search_size=(3, 5), search_extent=0.4, metric='dot', align_corners=True)",
    ),
    Case(
        EXACT,
        l2rfast.min_convolution,
        (COST,),
        {"weight": EXACT.log_weight.exp().detach()},
        "MinConvolution(weight=0.3, method='exact')",
        ("log_weight",),
    ),
    Case(
        l2rfast.nn.MinConvolution(method="pooled"),
        l2rfast.min_convolution,
        (COST,),
        {"method": "pooled"},
        "MinConvolution(method='pooled')",
    ),
    Case(
        l2rfast.nn.MeanField(radius=2, passes=1),
        l2rfast.mean_field,
        (COST,),
        {"radius": 2, "passes": 1},
        "MeanField(radius=2, passes=1)",
    ),
    Case(
        l2rfast.nn.SoftArgmin(2.5, dilation=[1, 2]),
        l2rfast.soft_argmin,
        (COST,),
        {"beta": 2.5, "dilation": [1, 2]},
        "SoftArgmin(beta=2.5, dilation=[1, 2])",
        ("beta",),
    ),
    Case(
        l2rfast.nn.DiscreteDisplacement(*LATTICE, memory="low"),
        l2rfast.discrete_displacement,
        (IMAGE, IMAGE.flip(2)),
        dict(zip(ON, LATTICE, strict=True)) | {"memory": "low"},
        "DiscreteDisplacement(grid_size=3, search_size=(3, 5), search_extent=0.4, align_corners=False, memory='low')",
        ("alphas",),
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.text.replace("'", ""))


@each_case
def test_a_module_is_its_function(case: Case) -> None:
    assert torch.equal(case.module(*case.arguments), case.function(*case.arguments, **case.options))
    assert repr(case.module) == case.text
    assert tuple(case.module.state_dict()) == case.learns
    assert tuple(name for name, _ in case.module.named_parameters()) == case.learns


@each_case
def test_a_module_compiles_whole(case: Case) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*case.arguments), case.module(*case.arguments))


def test_every_operation_that_is_a_layer_has_a_module() -> None:
    modules = {n for n, m in vars(l2rfast.nn).items() if isinstance(m, type) and issubclass(m, nn.Module)}
    assert modules == {type(case.module).__name__ for case in CASES}


def test_in_a_sequence() -> None:
    """The field that a network makes, integrated and measured; gradients reach the network's weights."""
    network = nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1), l2rfast.nn.IntegrateVelocity(steps=2), l2rfast.nn.JacobianDeterminant()
    )
    assert set(network.state_dict()) == {"0.weight", "0.bias"}
    out = network(noise(1, 2, *SIZE).float())
    assert out.shape == (1, *SIZE)
    out.square().sum().backward()
    assert network[0].weight.grad.any()
