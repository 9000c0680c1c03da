"""The chain of discrete layers: beside the published numbers, and beside its parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operation import runnable
from samples import by_displacement, by_point, noise
from torch import Tensor

import l2rfast
from l2rfast.discrete import ALPHAS

each_backend = pytest.mark.parametrize("backend", [b for b in runnable("min_convolution") if b != "triton"])


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


# --- The published code's numbers


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy((np.random.RandomState(seed).standard_normal(shape) * scale).astype(np.float32))


@pytest.fixture(scope="module")
def pddnet(real_data: Path) -> dict[str, Tensor]:
    stored = np.load(real_data / "golden" / "pddnet_discrete_small.npz", allow_pickle=False)
    return {name: torch.from_numpy(stored[name]) for name in stored.files}


SIZE, GRID, EXTENT = (20, 18, 22), 7, 0.25


def features() -> tuple[Tensor, Tensor]:
    return drawn(11, 1, 24, *SIZE, scale=0.4), drawn(12, 1, 24, *SIZE, scale=0.4)


def published(displacement: Tensor) -> Tensor:
    """(1, 3, *grid) in voxels -> (points, 3) in halves of the size, the last axis first."""
    return (displacement[0].flatten(1).T / (torch.tensor(SIZE) / 2).to(displacement)).flip(-1)


@each_backend
def test_every_stage_of_pddnet(backend: str, pddnet: dict[str, Tensor]) -> None:
    a = pddnet["alpha"].tolist()
    assert a == pytest.approx(ALPHAS)
    with l2rfast.backend(backend):
        first = a[1] + a[0] * l2rfast.lattice_correlation(*features(), GRID, GRID, EXTENT)
        assert relative(by_point(first), pddnet["deeds_cost"]) < 1e-5
        pooled = l2rfast.min_convolution(first, method="pooled")
        assert relative(by_point(pooled), pddnet["minconv1"]) < 1e-5
        estimate = l2rfast.mean_field(pooled)
        assert relative(by_displacement(estimate).flatten(), pddnet["meanfield1"].flatten()) < 1e-5
        pooled = l2rfast.min_convolution(a[4] + a[2] * first + a[3] * estimate, method="pooled")
        assert relative(by_point(pooled), pddnet["minconv2"]) < 1e-5
        estimate = l2rfast.mean_field(pooled)
        assert relative(by_displacement(estimate).flatten(), pddnet["meanfield2"].flatten()) < 1e-5
        steps = l2rfast.lattice_steps(SIZE, GRID, EXTENT)
        displacement, p = l2rfast.soft_argmin(estimate, a[5], dilation=steps, probabilities=True)
        assert relative(by_point(p).flatten(1), pddnet["cost_soft"]) < 1e-5
        assert relative(published(displacement), pddnet["pred_xyz"]) < 1e-5


@pytest.mark.parametrize("memory", ["normal", "low"])
@each_backend
def test_the_chain_of_pddnet_and_its_gradients(backend: str, memory: str, pddnet: dict[str, Tensor]) -> None:
    """Its gradients to features are 2.5e-5 from what they are in float64, with which ours agree."""
    weights = drawn(13, GRID**3, 3)

    def computed(dtype: torch.dtype) -> list[Tensor]:
        leaves = [t.to(dtype).requires_grad_() for t in (*features(), pddnet["alpha"])]
        out = published(l2rfast.discrete_displacement(*leaves[:2], GRID, GRID, EXTENT, leaves[2], memory=memory))
        return [out.detach(), *torch.autograd.grad((out * weights.to(dtype)).sum(), leaves)]

    with l2rfast.backend(backend):
        got = computed(torch.float32)
    with l2rfast.backend("reference"):
        exact = computed(torch.float64)
    for g, e, name in zip(got, exact, ("pred_xyz", "grad_feat00", "grad_feat50", "grad_alpha"), strict=True):
        assert relative(g, e) < 1e-5, name
        assert relative(g, pddnet[name]) < (4e-5 if "feat" in name else 1e-5), name


@each_backend
def test_the_correlation_of_the_tutorial(backend: str, real_data: Path) -> None:
    stored = np.load(real_data / "golden" / "tutorial2d.npz", allow_pickle=False)
    fixed, moving = drawn(32, 1, 24, 40, 32), drawn(31, 1, 24, 40, 32)
    for width, every in ((9, 1), (11, 2)):
        with l2rfast.backend(backend):
            cost = l2rfast.correlation(fixed, moving, width // 2).flatten(1, 2)
        assert relative(cost[..., ::every, ::every], torch.from_numpy(stored[f"ssd_dr{width}"])) < 1e-5
        assert np.array_equal(cost[0].argmin(0).numpy(), stored[f"argmin_dr{width}"])


# --- Its parts


def separately(fixed: Tensor, moving: Tensor, alphas: Tensor, on: tuple[Any, ...], **method: Any) -> tuple[Tensor, ...]:
    def regularised(cost: Tensor) -> Tensor:
        return l2rfast.mean_field(l2rfast.min_convolution(cost, **method))

    cost = alphas[0] * l2rfast.lattice_correlation(fixed, moving, *on) + alphas[1]
    estimate = regularised(cost)
    if len(alphas) == 6:
        estimate = regularised(alphas[2] * cost + alphas[3] * estimate + alphas[4])
    steps = l2rfast.lattice_steps(moving.shape[2:], *on[1:])
    result = l2rfast.soft_argmin(estimate, alphas[-1], dilation=steps, probabilities=True, entropy=True)
    assert isinstance(result, tuple)
    return result


@pytest.mark.parametrize("memory", ["normal", "low"])
@pytest.mark.parametrize("count", [3, 6])
@pytest.mark.parametrize("method", ["exact", "pooled"])
@pytest.mark.parametrize(("size", "grid"), [((14, 9), (13, 4)), ((11, 9, 10), (12, 3, 2))])
def test_the_chain_is_that_of_its_parts(
    size: tuple[int, ...], grid: tuple[int, ...], method: str, count: int, memory: str
) -> None:
    fixed, moving = noise(2, 3, *size).requires_grad_(), noise(2, 3, *size).requires_grad_()
    alphas = torch.tensor(ALPHAS[:count], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True) if method == "exact" else None
    on = (grid, 3, 0.4)
    options: dict[str, Any] = {"method": method, "weight": weight}
    leaves = [fixed, moving, alphas, *([weight] if weight is not None else [])]
    chain = partial(l2rfast.discrete_displacement, fixed, moving, *on, alphas, memory=memory, **options)
    got = chain(probabilities=True, entropy=True)
    expected = separately(fixed, moving, alphas, on, **options)
    assert len(got) == 3
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)
    weights = [noise(*g.shape) for g in got]
    gradients = [
        torch.autograd.grad([(t * w).sum() for t, w in zip(some, weights, strict=True)], leaves)
        for some in (got, expected)
    ]
    for g, e in zip(*gradients, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(chain(), expected[0])
        _, entropy = chain(entropy=True)
        torch.testing.assert_close(entropy, expected[2])


def test_a_smooth_motion_is_found() -> None:
    """Of features that move by the same everywhere."""
    fixed = l2rfast.box_average(noise(1, 8, 20, 22, 24), 1).float() * 10
    moving = torch.roll(fixed, (1, -2, 2), (2, 3, 4))
    on = (8, 9, 0.4)
    field = l2rfast.discrete_displacement(fixed, moving, *on, (1.0, 0.0, 5.0), method="exact", weight=0.5)
    inner = field[0, :, 2:-2, 2:-2, 2:-2].flatten(1)
    assert (inner - torch.tensor([[1.0], [-2.0], [2.0]])).abs().max() < 0.5


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"alphas": (1.0, 2.0)}, "alphas: expected 3 or 6"),
        ({"alphas": torch.ones(6).long()}, "alphas: expected 3 or 6"),
        ({"method": "best"}, "method: expected one of exact, pooled"),
        ({"memory": "none"}, "memory: expected one of normal, low"),
        ({"method": "exact"}, "weight: expected a positive number for method exact"),
        ({"moving": torch.ones(1, 2, 9, 9)}, "fixed, moving: expected one shape"),
        ({"grid_size": 0}, "grid_size: expected an integer >= 1"),
        ({"search_extent": -1}, "search_extent: expected a number >= 0"),
    ],
)
def test_wrong_arguments_of_the_chain_are_named(changes: dict[str, Any], begins: str) -> None:
    good = {"fixed": torch.ones(1, 2, 8, 9), "moving": torch.ones(1, 2, 8, 9)}
    options = {"grid_size": 3, "search_size": 3, "search_extent": 0.5}
    with pytest.raises(l2rfast.InputError) as caught:
        l2rfast.discrete_displacement(**(good | options | changes))
    assert str(caught.value).startswith(begins)
