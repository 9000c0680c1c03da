"""What discrete registration and its distances compute, beside the published code and on cases known beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from convexAdam import convex_adam_utils as published
from operators import field, noise
from scipy import ndimage
from torch import Tensor

import l2rfast
from l2rfast._dispatch import OPERATORS


@pytest.fixture(params=OPERATORS["mind_ssc"].backends(), autouse=True)
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with l2rfast.backend(request.param):
        yield


def relative_error(out: Tensor, expected: Tensor) -> float:
    return float((out - expected).norm() / expected.norm())


def blobs(*size: int) -> Tensor:
    """A smooth image (1, 1, *size), as anatomy is."""
    return l2rfast.box_average(noise(1, 1, *size), 1, passes=3)


# --- MIND-SSC


@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (1, 2), (2, 2), (3, 1), (2, 3)])
def test_mind_is_the_published_one(radius: int, dilation: int) -> None:
    image = blobs(14, 11, 17).float()
    ours = l2rfast.mind_ssc(image, radius, dilation)
    assert relative_error(ours, published.MINDSSC(image, radius, dilation, device="cpu")) < 1e-5


@pytest.mark.parametrize("pool", [2, 3, 4])
def test_pooled_mind_is_the_average_of_the_full_one(pool: int) -> None:
    for size, average in (((14, 11, 17), F.avg_pool3d), ((40, 37), F.avg_pool2d)):
        image = blobs(*size)
        expected = average(l2rfast.mind_ssc(image), pool)
        torch.testing.assert_close(l2rfast.mind_ssc(image, pool=pool), expected, rtol=1e-12, atol=1e-12)


def test_mind_of_a_constant_image_is_one() -> None:
    for size in ((6, 7, 8), (9, 5)):
        for value in (0.0, -3.0, 1e4):
            mind = l2rfast.mind_ssc(torch.full((1, 1, *size), value))
            assert torch.equal(mind, torch.ones_like(mind))


def test_mind_sees_neither_offset_nor_scale() -> None:
    image = blobs(12, 13, 14)
    mind = l2rfast.mind_ssc(image)
    for other in (image + 1000, -7 * image, 1e-3 * image - 5):
        assert relative_error(l2rfast.mind_ssc(other), mind) < 1e-9


# --- Cost volume and coupled convex optimisation


@pytest.mark.parametrize("half_width", [1, 3])
def test_cost_volume_and_optimum_are_the_published_ones(half_width: int) -> None:
    size, spacing, width = (7, 6, 8), 4, 2 * half_width + 1
    fixed, moving = (l2rfast.mind_ssc(blobs(*size)).float() for _ in range(2))
    shape = [spacing * s for s in size]
    theirs, argmin = published.correlate(fixed, moving, half_width, spacing, shape)
    ours = l2rfast.correlation(fixed, moving, half_width, smoothing=2)
    assert relative_error(ours, theirs.view(*[width] * 3, *size).permute(2, 1, 0, 3, 4, 5)[None]) < 1e-5

    identity = half_width * torch.eye(3, 4)[None]
    mesh = F.affine_grid(identity, [1, 1, *[width] * 3], align_corners=True).permute(0, 4, 1, 2, 3).reshape(3, -1, 1)
    expected = published.coupled_convex(theirs, argmin, mesh, spacing, shape)
    assert relative_error(l2rfast.coupled_convex(ours), expected) < 1e-5


@pytest.mark.parametrize(("step", "dilation"), [((1, -2), 1), ((0, 2, -1), 1), ((4, 0), 2), ((-2, 2, 0), 2)])
def test_a_shift_is_the_displacement_of_least_cost(step: tuple[int, ...], dilation: int) -> None:
    ndim, radius = len(step), 2
    moving = noise(1, 4, *[16, 14, 15][:ndim])
    fixed = moving.roll([-s for s in step], dims=list(range(2, 2 + ndim)))  # fixed(x) = moving(x + step)
    cost = l2rfast.correlation(fixed, moving, radius, dilation=dilation)
    least = cost.flatten(1, ndim).argmin(1)[(0, *[slice(4, -4)] * ndim)]
    expected = 0
    for s in step:
        expected = expected * (2 * radius + 1) + s // dilation + radius
    assert torch.equal(least, torch.full_like(least, expected))


def test_coupled_convex_leaves_out_nothing_that_may_be_least() -> None:
    """Where costs are alike, or many are infinite, as where they are noise: what is far from the field may be least."""
    cost = torch.rand(2, 5, 3, 7, 6, 11, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cost[..., :4, :6] = 0.25
    cost[..., 4:8, :6] = math.inf
    cost[:, 4, 2, 6, ..., 4:8, :6] = 0.5
    cost[..., 8:, :2] = -math.inf
    with l2rfast.backend("reference"):
        expected = l2rfast.coupled_convex(cost)
    torch.testing.assert_close(l2rfast.coupled_convex(cost), expected, rtol=0, atol=1e-12)


def test_coupled_convex_recovers_a_smooth_field() -> None:
    """Of costs that are least at a field: the field, but for whole steps and for the zeros around the grid."""
    size, radius = (12, 13, 14), 3
    axes = torch.meshgrid(*[torch.linspace(0, 3, s) for s in size], indexing="ij")
    truth = torch.stack([2 * (axes[0] + axes[1]).sin(), 2 * (axes[2] - 1).cos(), axes[0] - 1.5])
    steps = torch.arange(-radius, radius + 1.0)
    search = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"))
    cost = (search.view(3, -1, 1, 1, 1) - truth[:, None]).square().sum(0).view(1, *[2 * radius + 1] * 3, *size)
    interior = (..., *[slice(2, -2)] * 3)
    error = (l2rfast.coupled_convex(cost)[0] - truth)[interior].abs()
    assert error.max() < 0.5
    assert error.mean() < 0.15


# --- Inverse consistency


def inverse_error(forward: Tensor, backward: Tensor) -> float:
    """RMS of x -> x + forward -> backward, in voxels."""
    return float((forward + l2rfast.warp(backward, forward)).square().mean().sqrt())


def test_exact_inverses_stay() -> None:
    forward = torch.tensor([1.25, -0.5, 2.0], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(1, 3, 8, 9, 10)
    for kept, field_ in zip(l2rfast.inverse_consistency(forward, -forward), (forward, -forward), strict=True):
        torch.testing.assert_close(kept, field_, rtol=1e-12, atol=1e-12)


def test_fields_become_inverse() -> None:
    forward, backward = (10 * torch.cat([blobs(12, 13, 14) for _ in range(3)], 1) for _ in range(2))
    errors = [inverse_error(*l2rfast.inverse_consistency(forward, backward, i)) for i in (0, 5, 15)]
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 0.05 * errors[0]


def test_short_floats_are_rounded_once() -> None:
    forward, backward = (torch.cat([blobs(6, 7), blobs(6, 7)], 1).bfloat16() for _ in range(2))
    short = l2rfast.inverse_consistency(forward, backward)
    full = l2rfast.inverse_consistency(forward.float(), backward.float())
    assert all(torch.equal(s, f.bfloat16()) for s, f in zip(short, full, strict=True))


# --- Box average


def test_box_average_keeps_constants() -> None:
    for size, radius, passes in (((5, 6, 7), 1, 3), ((3, 4), 4, 2), ((1, 2, 9), 2, 1)):
        image = torch.full((1, 2, *size), 3.7, dtype=torch.float64)
        torch.testing.assert_close(l2rfast.box_average(image, radius, passes=passes), image, rtol=1e-12, atol=0)


@pytest.mark.parametrize("radius", [1, 2])
def test_box_average_with_zeros_is_average_pooling(radius: int) -> None:
    for image, average in ((noise(2, 3, 6, 7, 8), F.avg_pool3d), (noise(2, 3, 9, 7), F.avg_pool2d)):
        expected = image
        for _ in range(2):
            expected = average(expected, 2 * radius + 1, stride=1, padding=radius, count_include_pad=True)
        ours = l2rfast.box_average(image, radius, passes=2, padding="zeros")
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", ["border", "extended", "zeros"])
@pytest.mark.parametrize("radius", [1, 2])
def test_box_average_of_more_than_the_cache_takes_at_once(radius: int, padding: str) -> None:
    """Beside SciPy's, in float64; its gradient is the adjoint; the same bits for any number of threads."""
    passes, threads = 2, torch.get_num_threads()
    reach = passes * radius if padding == "extended" else 0
    for size in ((6, 40, 300), (300, 260)):
        image, weight = noise(1, 1, *size).requires_grad_(), noise(1, 1, *size)
        expected = np.pad(image[0, 0].detach().numpy(), reach, mode="edge")
        for _ in range(passes):
            mode = "constant" if padding == "zeros" else "nearest"
            expected = ndimage.uniform_filter(expected, 2 * radius + 1, mode=mode)
        expected = expected[tuple(slice(reach, reach + n) for n in size)]
        found = []
        try:
            for number in (1, 3):
                torch.set_num_threads(number)
                ours = l2rfast.box_average(image, radius, passes=passes, padding=padding)
                found.append((ours, *torch.autograd.grad(ours, image, weight)))
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        ours, gradient = found[0]
        torch.testing.assert_close(ours[0, 0].detach(), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close((gradient * image).sum(), (weight * ours).sum(), rtol=1e-9, atol=1e-9)


# --- Warp and squared differences in one pass


@pytest.mark.parametrize("channels", [1, 16, 20])
def test_warp_ssd_is_the_loss_of_the_warped_image(channels: int) -> None:
    for size, out in (((7, 8), (6, 9)), ((5, 6, 4), (6, 5, 7))):
        fixed, moving = noise(2, channels, *out), noise(2, channels, *size)
        disp = field(size, out, smooth=False).requires_grad_()
        expected = (l2rfast.warp(moving, disp) - fixed).square().sum(1).flatten(1).mean(1)
        (slope,) = torch.autograd.grad(expected.sum(), disp)
        loss, gradient = l2rfast.warp_ssd(fixed, moving, disp)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(3 * loss.sum(), disp)[0], 3 * slope, rtol=1e-12, atol=1e-12)


def test_warp_ssd_where_the_field_is_not_finite() -> None:
    """The loss says so; the gradient is as before elsewhere, and 0 there."""
    fixed, moving, clean = noise(2, 16, 6, 7), noise(2, 16, 6, 7), field((6, 7), (6, 7))
    hit = torch.zeros(2, 1, 6, 7, dtype=torch.bool)
    hit[0, 0, 2, 3] = hit[0, 0, 5, 6] = True
    loss, gradient = l2rfast.warp_ssd(fixed, moving, clean.masked_fill(hit, torch.nan))
    clean_loss, clean_gradient = l2rfast.warp_ssd(fixed, moving, clean)
    assert loss[0].isnan()
    assert loss[1] == clean_loss[1]
    assert torch.equal(gradient, clean_gradient.masked_fill(hit, 0))
