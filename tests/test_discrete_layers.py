"""The layers of the discrete method: by brute force, as pooling layers compute them, and where they are extreme."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from operation import runnable
from samples import by_displacement, by_point, noise
from torch import Tensor

import l2rfast

each_backend = pytest.mark.parametrize("backend", [b for b in runnable("min_convolution") if b != "triton"])


# --- Correlation


def unfolded(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """By PyTorch's unfold, in 2-D."""
    width = 2 * radius + 1
    patches = F.unfold(moving, width, padding=radius).view(*moving.shape[:2], width**2, *moving.shape[2:])
    return (fixed[:, :, None] - patches).square().sum(1).view(len(fixed), width, width, *fixed.shape[2:])


@each_backend
def test_correlation_is_that_of_unfold(backend: str) -> None:
    fixed, moving = noise(2, 5, 9, 8), noise(2, 5, 9, 8)
    with l2rfast.backend(backend):
        torch.testing.assert_close(l2rfast.correlation(fixed, moving, 2), unfolded(fixed, moving, 2))


@pytest.mark.parametrize("metric", ["ssd", "sad", "dot"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_known_shift_is_found(ndim: int, metric: str) -> None:
    fixed = F.normalize(noise(1, 16, *[12] * ndim), dim=1)
    shift = (2, -1, 1)[:ndim]
    cost = l2rfast.correlation(fixed, torch.roll(fixed, shift, tuple(range(2, 2 + ndim))), 2, metric=metric)
    inner = cost[(0, *[slice(None)] * ndim, *[slice(3, -3)] * ndim)].flatten(0, ndim - 1)
    best = inner.argmax(0) if metric == "dot" else inner.argmin(0)
    expected = np.ravel_multi_index([2 + s for s in shift], [5] * ndim)
    assert (best == int(expected)).all()


def test_constant_features_cost_nothing() -> None:
    features = torch.full((1, 3, 6, 7, 8), 2.5)
    assert not l2rfast.correlation(features, features, 1, padding="border").any()
    assert l2rfast.lattice_correlation(features, features, 4, 5, 0.5).max() < 1e-10  # samples are rounded


def test_a_lattice_on_voxels_is_the_dense_correlation() -> None:
    """With corners aligned, as many control points as voxels, and displacements of whole voxels."""
    fixed, moving = noise(2, 3, 9, 7), noise(2, 3, 9, 7)
    extent = [2 * 2 / (s - 1) for s in (9, 7)]
    lattice = l2rfast.lattice_correlation(fixed, moving, (9, 7), 5, extent, align_corners=True)
    torch.testing.assert_close(lattice, l2rfast.correlation(fixed, moving, 2, padding="border"))
    assert l2rfast.lattice_steps((9, 7), 5, extent, align_corners=True) == pytest.approx([1, 1])


def test_lattice_samples_are_those_of_grid_sample() -> None:
    fixed, moving = noise(1, 4, 7, 6, 9), noise(1, 4, 7, 6, 9)
    grid, search, extent = 3, (2, 4, 3), 0.7
    for align in (False, True):
        identity = torch.eye(3, 4, dtype=torch.float64)[None]
        at = F.affine_grid(identity, [1, 1, grid, grid, grid], align_corners=align)
        shifts = extent * F.affine_grid(identity, [1, 1, *search], align_corners=align).view(-1, 3)
        f = F.grid_sample(fixed, at, align_corners=align)
        costs = [
            (f - F.grid_sample(moving, at + s, padding_mode="border", align_corners=align)).square().sum(1)
            for s in shifts
        ]
        expected = torch.stack(costs, 1).view(1, *search, grid, grid, grid)
        got = l2rfast.lattice_correlation(fixed, moving, grid, search, extent, align_corners=align)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


# --- Min-convolution


def by_brute_force(cost: Tensor, weight: float) -> Tensor:
    """Over all pairs of displacements."""
    ndim = (cost.ndim - 1) // 2
    search = cost.shape[1 : 1 + ndim]
    flat = cost.reshape(cost.shape[0], -1, *cost.shape[1 + ndim :])
    places = torch.tensor(list(product(*map(range, search))), dtype=cost.dtype)
    distances = (places[:, None] - places).square().sum(-1)
    rows = [(flat + weight * row.view(1, -1, *[1] * ndim)).amin(1) for row in distances]
    return torch.stack(rows, 1).view(cost.shape)


@pytest.mark.parametrize("weight", [1e-30, 0.02, 0.7, 1e6, 1e30])
@pytest.mark.parametrize("search", [(5, 4), (1, 9), (3, 70), (3, 2, 5)])
@each_backend
def test_the_least_over_all_pairs(backend: str, search: tuple[int, ...], weight: float) -> None:
    """Of noise, of costs with many ties, and of costs most of which are forbidden."""
    spatial = (3, 2, 2)[: len(search)]
    costs = noise(2, *search, *spatial)
    tied = torch.round(2 * costs)
    forbidden = torch.where(noise(*costs.shape) < 0.8, torch.inf, tied)
    for cost in (costs, tied, forbidden):
        with l2rfast.backend(backend):
            got = l2rfast.min_convolution(cost, weight)
        torch.testing.assert_close(got, by_brute_force(cost, weight), rtol=1e-12, atol=1e-12)


@each_backend
def test_a_forbidden_displacement_is_harmless(backend: str) -> None:
    cost = noise(1, 5, 4, 3, 2)
    cost[0, 2, :, 0, 0], cost[0, :, :, 1, 1] = torch.inf, torch.inf  # some of a control point, and all of another
    leaf, weight = cost.requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with l2rfast.backend(backend):
        out = l2rfast.min_convolution(leaf, weight)
        to_cost, to_weight = torch.autograd.grad(out, [leaf, weight], torch.ones_like(out))
    assert out[0, :, :, 1, 1].isinf().all()
    assert out.isinf().sum() == 20
    assert to_cost.isfinite().all()
    assert to_weight.isfinite()
    assert not to_cost[0, 2, :, 0, 0].any()
    assert not to_cost[0, :, :, 1, 1].any()
    assert to_cost.sum() == pytest.approx(5 * 4 * 3 * 2 - 20)


@given(st.integers(0, 1000), st.floats(1e-3, 10))
def test_min_convolutions_of_min_convolutions(seed: int, weight: float) -> None:
    """Twice is between once and once with half the weight, which it is where displacements are dense."""
    cost = torch.randn(1, 7, 5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    once = l2rfast.min_convolution(cost, weight)
    twice = l2rfast.min_convolution(once, weight)
    assert (once <= cost).all()
    assert (twice <= once).all()
    assert (twice >= l2rfast.min_convolution(cost, weight / 2) - 1e-12).all()


@pytest.mark.parametrize("weight", [1e-30, 1e9])
def test_min_convolution_at_its_ends_is_idempotent(weight: float) -> None:
    """Where the penalty is nothing, or more than any gain."""
    cost = noise(1, 7, 5, 2, 2)
    once = l2rfast.min_convolution(cost, weight)
    least = cost.amin((1, 2), keepdim=True).expand(cost.shape) if weight < 1 else cost
    torch.testing.assert_close(once, least)
    assert torch.equal(l2rfast.min_convolution(once, weight), once)


def test_the_pooled_is_that_of_pooling_layers() -> None:
    cost = noise(1, 5, 4, 6, 3, 2, 2)
    flat = by_point(cost)[:, None]
    least = -F.max_pool3d(F.pad(-flat, [3] * 6, mode="replicate"), 3, stride=1)
    expected = F.avg_pool3d(F.avg_pool3d(least, 3, stride=1), 3, stride=1)
    for weight in (None, 0.5):
        torch.testing.assert_close(by_point(l2rfast.min_convolution(cost, weight, method="pooled")), expected[:, 0])


def test_the_pooled_is_no_lower_envelope() -> None:
    """An exact envelope keeps the depth of a single low cost; the averages fill it up, whatever its weight."""
    cost = torch.full((1, 15, 15, 1, 1), 10.0, dtype=torch.float64)
    cost[0, 7, 7] = 0
    exact = l2rfast.min_convolution(cost, 0.5)[0, 7, :, 0, 0]
    pooled = l2rfast.min_convolution(cost, method="pooled")[0, 7, :, 0, 0]
    steps = torch.arange(15.0, dtype=torch.float64) - 7
    torch.testing.assert_close(exact, (0.5 * steps**2).clamp(max=10))
    # 3 x 3 low costs, averaged with weights 1 2 3 2 1 along each axis.
    share = torch.tensor([1, 3, 6, 7, 6, 3, 1], dtype=torch.float64) / 9
    expected = torch.full((15,), 10.0, dtype=torch.float64)
    expected[4:11] -= 10 * share[3] * share
    torch.testing.assert_close(pooled, expected)
    assert pooled[7] - exact[7] > 3.9


# --- Mean field, soft arg-min


def test_mean_field_is_that_of_pooling_layers() -> None:
    cost = noise(1, 2, 1, 3, 5, 4, 6)
    padded = F.pad(by_displacement(cost)[None], [2] * 6, mode="replicate")
    expected = F.avg_pool3d(F.avg_pool3d(padded, 3, stride=1), 3, stride=1)
    torch.testing.assert_close(by_displacement(l2rfast.mean_field(cost)), expected[0])


def test_mean_field_keeps_constants() -> None:
    cost = noise(2, 3, 4, 1, 1).expand(2, 3, 4, 9, 8)
    for radius, passes in ((1, 2), (4, 1), (10, 3)):
        torch.testing.assert_close(l2rfast.mean_field(cost, radius=radius, passes=passes), cost)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_displacement(backend: str, dtype: torch.dtype) -> None:
    cost = torch.full((1, 5, 3, 2, 2), 100.0, dtype=dtype)
    cost[0, 4, 0] = 0
    forbidden = torch.where(cost == 0, cost, torch.inf)
    for costs, beta in ((cost, 1e4), (forbidden, 1.0), (cost + 1e6, 10.0), (cost - 1e6, 10.0)):
        with l2rfast.backend(backend):
            field, p, entropy = l2rfast.soft_argmin(costs, beta, dilation=2, probabilities=True, entropy=True)
        assert torch.equal(field[0, 0], torch.full((2, 2), 4.0, dtype=dtype))
        assert torch.equal(field[0, 1], torch.full((2, 2), -2.0, dtype=dtype))
        assert torch.equal(p, (cost == 0).to(dtype))
        assert not entropy.any()


@each_backend
def test_nothing_known(backend: str) -> None:
    cost = torch.full((2, 3, 4, 5, 2, 1, 2), 7.0)
    with l2rfast.backend(backend):
        field, entropy = l2rfast.soft_argmin(cost, 3.0, entropy=True)
    assert field.abs().max() < 1e-6
    torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(60)))


@each_backend
def test_forbidden_displacements_get_no_gradient(backend: str) -> None:
    cost = noise(1, 4, 3, 2, 2)
    cost[0, 1, 2] = torch.inf
    leaf, beta = cost.requires_grad_(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with l2rfast.backend(backend):
        every = l2rfast.soft_argmin(leaf, beta, probabilities=True, entropy=True)
        gradients = torch.autograd.grad(every, [leaf, beta], [noise(*out.shape) for out in every])
    assert all(g.isfinite().all() for g in gradients)
    assert not gradients[0][0, 1, 2].any()


# --- Labels


def test_shifted_labels_are_those_of_the_shifted_copies() -> None:
    labels = noise(1, 3, 6, 7, 5)
    p = torch.rand(1, 3, 5, 1, 6, 7, 5, dtype=torch.float64).softmax(1)
    padded = F.pad(labels, [0, 0, 2, 2, 1, 1])
    expected = sum(p[:, z, y, 0, None] * padded[:, :, z : z + 6, y : y + 7] for z, y in product(range(3), range(5)))
    torch.testing.assert_close(l2rfast.shift_labels(p, labels), expected)


def test_labels_shifted_on_a_lattice() -> None:
    labels = noise(1, 3, 9, 8)
    p = torch.rand(1, 3, 4, 5, 6, dtype=torch.float64)
    identity = torch.eye(2, 3, dtype=torch.float64)[None]
    at = F.affine_grid(identity, [1, 1, 5, 6], align_corners=False)
    shifts = 0.4 * F.affine_grid(identity, [1, 1, 3, 4], align_corners=False).view(-1, 2)
    sampled = [F.grid_sample(labels, at + s, padding_mode="border", align_corners=False) for s in shifts]
    expected = (torch.stack(sampled, 2) * p.flatten(1, 2)[:, None]).sum(2)
    torch.testing.assert_close(l2rfast.shift_labels(p, labels, 0.4), expected)
