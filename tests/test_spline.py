"""Facts about interpolation by cubic B-splines that are not true of every operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from operators import runnable
from samples import PADDINGS, coordinates, field, noise
from scipy import ndimage
from torch import Tensor

import l2rfast
from l2rfast import spline_coefficients, warp

SIZES = [(9, 7), (6, 40), (1, 4), (2, 3), (5, 6, 8), (3, 1, 2), (34, 4, 33)]

each_backend = pytest.mark.parametrize("backend", runnable("spline_warp", ("cpu",)))
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def exactness(dtype: torch.dtype) -> dict[str, float]:
    """Errors of some roundings of numbers of about one."""
    return dict.fromkeys(("rtol", "atol"), 32 * torch.finfo(dtype).eps)


@each_backend
@each_size
@each_dtype
def test_coefficients_are_those_of_scipy(backend: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    image = noise(2, 2, *size)
    expected = np.stack([[ndimage.spline_filter(c, 3, mode="mirror") for c in item] for item in image.numpy()])
    with l2rfast.backend(backend):
        got = spline_coefficients(image.to(dtype))
    torch.testing.assert_close(got, torch.from_numpy(expected).to(dtype), **exactness(dtype))


@each_backend
@each_size
@each_dtype
def test_samples_inside_are_those_of_scipy(backend: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    image, out = noise(1, 1, *size), (6, *size[1:])
    last = torch.tensor(size, dtype=torch.float64).view(-1, *[1] * len(size)) - 1
    places = torch.round(64 * last * torch.rand(len(size), *out, dtype=torch.float64)) / 64
    expected = torch.from_numpy(ndimage.map_coordinates(image[0, 0].numpy(), places.numpy(), order=3, mode="mirror"))
    disp = (places - coordinates(out))[None].to(dtype)
    for padding in PADDINGS:
        with l2rfast.backend(backend):
            got = warp(image.to(dtype), disp, mode="cubic", padding=padding)
        torch.testing.assert_close(got[0, 0], expected.to(dtype), **exactness(dtype))


@each_backend
@each_size
def test_an_image_goes_through_its_spline(backend: str, size: tuple[int, ...]) -> None:
    image = noise(2, 3, *size)
    with l2rfast.backend(backend):
        again = warp(image, torch.zeros(2, len(size), *size, dtype=torch.float64), mode="cubic")
    torch.testing.assert_close(again, image, rtol=1e-13, atol=1e-13)


@each_backend
@each_size
def test_what_is_outside(backend: str, size: tuple[int, ...]) -> None:
    """The value at the border; that times what linear interpolation leaves of ones; the value at the mirrored place."""
    image, disp = noise(2, 3, *size), field(size, size)
    at, last = coordinates(size), torch.tensor(size, dtype=torch.float64).view(-1, *[1] * len(size)) - 1
    places = at + disp
    nearest = places.clamp(torch.zeros_like(last), last)
    mirrored = ((places + last) % (2 * last).clamp(min=1) - last).abs() * (last > 0)
    with l2rfast.backend(backend):
        inside, back = (warp(image, p - at, mode="cubic") for p in (nearest, mirrored))
        border, zeros, reflection = (warp(image, disp, mode="cubic", padding=p) for p in PADDINGS)
        ones = warp(torch.ones_like(image), disp, padding="zeros")
    torch.testing.assert_close(border, inside, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(zeros, inside * ones, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reflection, back, rtol=1e-12, atol=1e-12)


@each_backend
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_gradient_to_the_field_is_that_of_the_polynomial_that_the_spline_is(backend: str, ndim: int) -> None:
    """x^3 + x y^2, far enough from the border for nothing of its mirror to be left: 0.27^20 is 4e-12."""
    size = (48, 50, 1)[:ndim]
    x, y = coordinates(size)[:2] / 10
    places = torch.tensor([22.25, 24.75, 0], dtype=torch.float64)[:ndim].view(1, ndim, *[1] * ndim).requires_grad_()
    with l2rfast.backend(backend):
        value = warp((x**3 + x * y**2)[None, None], places, mode="cubic")
        (slope,) = torch.autograd.grad(value.sum(), places)
    a, b = 2.225, 2.475
    assert value.item() == pytest.approx(a**3 + a * b**2, rel=1e-9)
    assert slope.flatten()[:2].tolist() == pytest.approx([(3 * a**2 + b**2) / 10, 2 * a * b / 10], rel=1e-9)


@each_backend
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("padding", PADDINGS)
def test_displacements_that_are_not_finite(backend: str, padding: str, bad: float) -> None:
    """NaN there, as before elsewhere; and no gradient through there."""
    size = (4, 6, 5)
    image, clean, weights = noise(2, 3, *size), field(size, size), noise(2, 3, *size)
    hit = torch.rand(2, 1, *size) < 0.2
    disp = torch.where(hit & (torch.arange(3) == 1).view(-1, 1, 1, 1), bad, clean)

    def run(disp: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        inputs = image.detach().requires_grad_(), disp.requires_grad_()
        out = warp(*inputs, mode="cubic", padding=padding)
        return out.detach(), *torch.autograd.grad(out, inputs, weights)

    with l2rfast.backend(backend):
        out, *got = run(disp, weights)
        clean_out, *expected = run(clean, weights.masked_fill(hit, 0))
    assert torch.equal(out.isnan(), hit.expand_as(out))
    assert torch.equal(out.nan_to_num(0.0), clean_out.masked_fill(hit, 0))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_rounded_once(backend: str, dtype: torch.dtype) -> None:
    image, disp = noise(1, 2, 7, 9).to(dtype), field((7, 9), (7, 9))[:1].to(dtype)
    with l2rfast.backend(backend):
        got, coefficients = warp(image, disp, mode="cubic"), spline_coefficients(image)
    exact = warp(image.double(), disp.double(), mode="cubic")
    assert coefficients.dtype == torch.float32
    assert got.dtype == dtype
    assert float((got.double() - exact).norm() / exact.norm()) < torch.finfo(dtype).eps / 2


@each_backend
def test_one_prefilter_serves_many_fields(backend: str) -> None:
    image, fields = noise(1, 2, 5, 6, 7), [field((5, 6, 7), (5, 6, 7))[:1] for _ in range(2)]
    with l2rfast.backend(backend):
        coefficients = spline_coefficients(image)
        for disp in fields:
            assert torch.equal(warp(coefficients, disp, mode="cubic", prefilter=False), warp(image, disp, mode="cubic"))


@each_backend
def test_huge_displacements(backend: str) -> None:
    image = noise(2, 1, 4, 6, 5)
    last = image[..., -1:, -1:, -1:].expand_as(image)
    for huge in (2.0**31, 2.0**63, 1e30, torch.finfo(torch.float64).max):
        disp = torch.full((2, 3, 4, 6, 5), huge, dtype=torch.float64, requires_grad=True)
        with l2rfast.backend(backend):
            border = warp(image, disp, mode="cubic")
            torch.testing.assert_close(border, last, rtol=1e-12, atol=1e-12)
            border.sum().backward()
            assert not disp.grad.any()
            assert not warp(image, disp, mode="cubic", padding="zeros").any()
