"""Numbers at the ends of what images hold make nothing that is not finite: hypothesis looks for those that do."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import OPERATIONS, Operation
from torch import Tensor

import l2rfast
from l2rfast import label_losses, losses, metrics
from l2rfast.methods import intensities

SIZES = st.sampled_from([(5, 4), (1, 7), (3, 4, 5), (1, 1, 1)])
EXPONENTS = st.integers(-30, 30)
HALVES = st.sampled_from([torch.float16, torch.bfloat16])


@st.composite
def images(draw: st.DrawFn, channels: int = 1, exponents: st.SearchStrategy[int] = EXPONENTS) -> tuple[Tensor, Tensor]:
    """Two float32 images (1, C, *size): constant, of one voxel, or of noise, each of its own magnitude."""
    size = draw(SIZES)

    def one() -> Tensor:
        kind, unit = draw(st.sampled_from(["constant", "voxel", "noise"])), 10.0 ** draw(exponents)
        image = torch.ones(1, channels, *size)
        if kind == "noise":
            image = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
        if kind == "voxel":
            image = torch.zeros(1, channels, *size)
            image.view(-1)[draw(st.integers(0, image.numel() - 1))] = 1
        return (image.double() * unit).float() * draw(st.sampled_from([1, -1]))

    return one(), one()


def is_finite(results: Any) -> bool:
    several = results if isinstance(results, tuple) else (results,)
    return all(bool(result.isfinite().all()) for result in several)


# What samples or filters an image, and so gives numbers of its magnitude.
LINEAR = {
    *("warp", "spline_warp", "spline_coefficients", "warp_many", "warp_with_gradient", "grid_sample", "affine_warp"),
    *("affine_resample", "sinc", "affine_sinc", "block_average", "box_average", "gaussian_filter", "mind_ssc"),
}


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.name in LINEAR], ids=lambda o: o.name)
@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_images_of_any_unit_stay_finite_and_keep_it(operation: Operation, unit: float) -> None:
    if operation.name == "mind_ssc":
        unit = unit**0.5  # of its squares
    for sample in operation.some():
        inputs = {n: (t * unit if n in ("image", "labels", "input") else t).float() for n, t in sample.inputs.items()}
        with torch.no_grad():
            got, plain = (
                operation.function(**given, **sample.options)
                for given in (inputs, {n: t.float() for n, t in sample.inputs.items()})
            )
        for large, usual in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, plain)), strict=True):
            assert torch.equal(large.isfinite(), usual.isfinite())
            if operation.name != "mind_ssc" and not sample.options.get("outside"):
                error = (large.double() / unit - usual.double())[usual.isfinite()].norm()
                assert error <= 1e-5 * usual[usual.isfinite()].double().norm()


@given(images(exponents=st.integers(-30, 8)), st.sampled_from(["box", "triangular", "gaussian"]))
def test_local_ncc_is_finite(pair: tuple[Tensor, Tensor], weighting: str) -> None:
    a, b = (image.requires_grad_() for image in pair)
    value = l2rfast.local_ncc(a, b, window=3, weighting=weighting)
    assert is_finite((value, *torch.autograd.grad(value, (a, b))))


@given(images())
def test_histograms_and_mutual_information_are_finite(pair: tuple[Tensor, Tensor]) -> None:
    a, b = (image.requires_grad_() for image in pair)
    for value in (losses.mutual_information(a, b), l2rfast.joint_histogram(a, b, bins=5).square().sum()):
        assert is_finite((value, *torch.autograd.grad(value, (a, b))))


@given(images(exponents=st.integers(-30, 15)), st.sampled_from(["ssd", "sad", "dot"]))
def test_cost_volumes_are_finite(pair: tuple[Tensor, Tensor], metric: str) -> None:
    cost = l2rfast.correlation(*pair, 1, metric=metric)
    costs = l2rfast.min_convolution(cost, 0.1), l2rfast.min_convolution(cost, method="pooled"), l2rfast.mean_field(cost)
    found = l2rfast.soft_argmin(cost, 150.0, probabilities=True, entropy=True)
    assert is_finite((cost, *costs, *found, l2rfast.coupled_convex(cost)))


@pytest.mark.parametrize("beta", [1e-30, 1.0, 150.0, 1e30])
@given(st.integers(-30, 30))
def test_a_soft_minimum_of_large_costs_is_the_least(beta: float, exponent: int) -> None:
    cost = (torch.arange(9.0).view(1, 3, 3, 1, 1) * 10.0**exponent).requires_grad_()
    found, p, entropy = l2rfast.soft_argmin(cost, beta, probabilities=True, entropy=True)
    (gradient,) = torch.autograd.grad(found.sum() + entropy.sum(), cost)
    assert is_finite((found, p, entropy, gradient))
    assert float(p.detach().sum()) == pytest.approx(1, abs=1e-5)
    if beta * 10.0**exponent > 100:
        assert found.flatten().tolist() == [-1, -1]


@pytest.mark.parametrize("measure", label_losses.MEASURES)
@given(HALVES, st.sampled_from([0.0, 1e-7, 0.5, 1.0]), st.booleans())
@settings(max_examples=10)
def test_losses_of_labels_in_16_bits_are_finite(measure: str, dtype: torch.dtype, value: float, one: bool) -> None:
    """Of more voxels than float16 counts."""
    a, b = (torch.full((1, 2, 300, 300), value, dtype=dtype).requires_grad_() for _ in range(2))
    if one:
        with torch.no_grad():
            a[:] = 0
            a[0, 0, 7, 9] = 1
    loss = label_losses.label_loss(a, b, measure)
    assert loss.dtype == dtype
    assert is_finite((loss, *torch.autograd.grad(loss, (a, b))))
    exact = label_losses.label_loss(a.detach().double(), b.detach().double(), measure)
    assert float(loss.detach()) == pytest.approx(float(exact), abs=0.01 + 0.01 * abs(float(exact)))


@given(images())
def test_measures_of_images_are_finite(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    assert is_finite(metrics.mean_squared_error(a, b))
    correlation = metrics.global_correlation(a, b)
    constant = any(image.min() == image.max() for image in pair)
    assert bool(correlation.isnan()) == constant
    assert constant or abs(float(correlation)) <= 1 + 1e-9


@given(st.integers(-30, 9))
def test_measures_of_fields_are_finite(exponent: int) -> None:
    disp = torch.randn(1, 3, 5, 4, 3, generator=torch.Generator().manual_seed(0)) * 10.0**exponent
    assert is_finite((metrics.log_jacobian_std(disp), metrics.folding_fraction(disp)))
    assert is_finite(metrics.digital_folding_fraction(disp))
    assert is_finite((losses.diffusion_energy(disp), losses.gradient_energy(disp)))


@given(st.lists(st.integers(1, 2**62), min_size=2, max_size=6, unique=True), st.integers(0, 9))
def test_labels_beyond_what_floats_count_are_kept_apart(labels: list[int], seed: int) -> None:
    """Neighbours beyond 2^53, which float64 takes for one."""
    values = np.array(sorted({*labels, *(label + 1 for label in labels)}))
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.choice(values, (4, 5))) for _ in range(2))
    dice = metrics.dice(a, b)
    for label, value in dice.items():
        x, y = a == label, b == label
        assert value == pytest.approx(2 * int((x & y).sum()) / int(x.sum() + y.sum()))
    distances = metrics.hd95(a[None], b[None], (1.0, 1.0, 1.0))
    assert all(np.isnan(d) == (not (b == label).any()) for label, d in distances.items())
    image, still = a[None, None], torch.zeros(1, 2, 4, 5)
    for mode in ("nearest", "vote"):
        assert torch.equal(l2rfast.warp(image, still, mode=mode), image)
        assert torch.equal(l2rfast.affine_warp(image, torch.eye(2, 3)[None], mode=mode), image)


@given(images(exponents=st.integers(-30, 30)))
def test_intensities_are_scaled_whatever_their_unit(pair: tuple[Tensor, Tensor]) -> None:
    for image in pair:
        scaled = intensities.in_range(image)
        assert is_finite(scaled)
        assert 0 <= float(scaled.min()) <= float(scaled.max()) <= 1
        for scale in (intensities.standardised, intensities.from_zero_to_one):
            if image.unique().numel() > 8:
                assert is_finite(scale("image", image))
            else:  # nothing, or one voxel, which is a stray
                with contextlib.suppress(l2rfast.InputError):
                    assert is_finite(scale("image", image))


@pytest.mark.parametrize("metric", ["lncc", "mind", "mi", "ssd"])
@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_a_registration_of_images_of_any_unit_is_finite(metric: str, unit: float) -> None:
    noise = l2rfast.box_average(torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)), 2, passes=2)
    moved = noise.roll(1, -1) * unit
    result = l2rfast.register(noise[0, 0], moved[0, 0], metric=metric, iterations=3, init="none")
    assert is_finite((result.displacement, result.inverse, result.warp(moved[0, 0])))


@pytest.mark.parametrize("init", ["none", "auto"])
@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_a_registration_of_one_voxel_is_finite(value: float, init: str) -> None:
    voxel = torch.zeros(24, 24)
    voxel[11, 12] = value
    result = l2rfast.register(voxel, voxel.roll(2, 0), iterations=2, full_iterations=1, init=init)
    assert is_finite((result.displacement, result.inverse, result.warp(voxel)))


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_a_registration_of_nothing_is_refused(value: float) -> None:
    with pytest.raises(l2rfast.InputError, match="moving: expected an image, but every voxel has the value"):
        l2rfast.register(torch.eye(24), torch.full((24, 24), value))
