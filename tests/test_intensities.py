"""The range of intensities by which all methods scale images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import l2rfast
from l2rfast.methods.intensities import from_zero_to_one, robust_range, standardised, without_strays


def body(size: int = 32, radius: float = 10.0, background: float = 0.0, noise: float = 0.0) -> Tensor:
    """A ball from 300 to 900 that grows brighter along an axis, and 300 at least at its border."""
    random = np.random.default_rng(0)
    axes = np.stack(np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij"))
    inside = (axes**2).sum(0) < radius**2
    image = np.where(inside, 600 + 300 * axes[0] / radius, background) + noise * random.standard_normal(inside.shape)
    return torch.from_numpy(image.astype("f4"))


@pytest.mark.parametrize("far", [-32768.0, -1e30, 1e7, 1e30])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_few_voxels_do_not_rule(far: float, count: int) -> None:
    image = body(noise=5)
    at = torch.from_numpy(np.random.default_rng(1).choice(image.numel(), count, replace=False))
    spoilt = image.clone()
    spoilt.view(-1)[at] = far
    assert robust_range(spoilt) == pytest.approx(robust_range(image), abs=25)
    keep = spoilt == image
    for scale in (standardised, from_zero_to_one):
        torch.testing.assert_close(scale("image", spoilt)[keep], scale("image", image)[keep], rtol=0.02, atol=0.05)
    low, high = image.aminmax()
    assert low - 25 <= without_strays(spoilt).min() <= without_strays(spoilt).max() <= high + 25


def test_the_range_is_that_of_numpys_quantiles() -> None:
    image = torch.randn(40, 50, 60, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(image.numpy(), [0.0005, 0.9995], method="nearest")
    assert robust_range(image) == pytest.approx(expected.tolist(), rel=1e-3)
    assert without_strays(image) is image  # a normal distribution has no tails


@pytest.mark.parametrize("background", [0.0, 50.0, 5000.0])
def test_a_body_of_a_thousandth_has_its_range(background: float) -> None:
    image = body(64, 3.9, background)
    inside = image != background
    assert 0.0005 < inside.float().mean() < 0.001
    low, high = (float(value) for value in image.aminmax())
    assert robust_range(image) == pytest.approx((low, high), abs=80)
    image[0, 0, 0] = 1e7
    assert robust_range(image) == pytest.approx((low, high), abs=80)


@pytest.mark.parametrize("voxels", [1, 2, 5, 20])
def test_points_on_a_background_are_no_strays(voxels: int) -> None:
    image = torch.full((20, 20, 20), 7.0)
    image.view(-1)[: 20 * voxels : 20] = 9.0
    assert robust_range(image) == (7, 9)
    assert without_strays(image) is image


def test_a_constant_image_has_no_range() -> None:
    image = torch.full((8, 8, 8), -3000.0)
    assert robust_range(image) == (-3000, -3000)
    for scale in (standardised, from_zero_to_one):
        with pytest.raises(l2rfast.InputError, match=r"^moving: .*constant"):
            scale("moving", image)


@pytest.mark.parametrize("padding", [-2000.0, -2048.0, -3024.0, -32768.0])
@pytest.mark.parametrize("radius", [15.9, 13.0, 11.0])
def test_ct_outside_the_scan_counts_as_air(padding: float, radius: float) -> None:
    """As in the image that is clipped by hand, whether a fifth or most of it is padded."""
    ct = torch.where(body() > 0, body() - 400, body(background=-1000, noise=20))
    place = torch.arange(32) - 15.5
    outside = ((place[:, None] ** 2 + place**2) > radius**2).expand(32, 32, 32)
    padded = torch.where(outside, padding, ct)
    clipped = padded.clamp(min=float(ct.min()))
    assert 0.2 < outside.float().mean() < 0.7
    assert robust_range(padded) == pytest.approx(robust_range(clipped), abs=30)
    for scale in (standardised, from_zero_to_one):
        torch.testing.assert_close(scale("image", padded), scale("image", clipped), rtol=0.01, atol=0.1)


def test_dark_that_is_no_padding_stays() -> None:
    """Air of CT with its noise, and other images whose values go on below -1024."""
    for image in (body(background=-1000, noise=20) - 60, body(noise=30) - 3000, body(32, 0.1, 0.0, 3000)):
        assert without_strays(image) is image


@pytest.mark.parametrize("factor", [1e-25, 0.003, 1.0, 5.0, 1e20])
@pytest.mark.parametrize("offset", [0.0, -2.0])
def test_zero_to_one_whatever_the_unit(factor: float, offset: float) -> None:
    unit = (body(noise=5) - body(noise=5).min()) / (body(noise=5).max() - body(noise=5).min())
    scaled = from_zero_to_one("image", factor * (unit + offset))
    torch.testing.assert_close(scaled, unit, rtol=1e-5, atol=1e-5)


def test_images_that_fill_zero_to_one_are_passed_as_they_are() -> None:
    image = 0.6 * torch.rand(16, 16, 16)
    assert from_zero_to_one("image", image) is image
    small = 0.9 + 0.1 * torch.rand(16, 16, 16)
    assert from_zero_to_one("image", small).aminmax() == (torch.tensor(0.0), torch.tensor(1.0))
