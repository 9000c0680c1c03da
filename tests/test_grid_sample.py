"""grid_sample beside PyTorch's, and where it promises more."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from operators import runnable
from samples import PADDINGS, noise, normalised, positions
from torch import Tensor

import l2rfast

SIZES = [(6, 7), (4, 6, 5)]

each_backend = pytest.mark.parametrize("backend", runnable("grid_sample", ("cpu",)))
each_mode = pytest.mark.parametrize("mode", ["bilinear", "nearest"])
each_padding = pytest.mark.parametrize("padding", PADDINGS)
each_alignment = pytest.mark.parametrize("align", [True, False], ids=["centres", "edges"])
each_size = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])


def run(sample, image: Tensor, grid: Tensor, weights: Tensor, *options) -> tuple[Tensor, ...]:
    """Samples and the gradients to image and grid."""
    inputs = image.detach().requires_grad_(), grid.detach().requires_grad_()
    out = sample(*inputs, *options)
    return out.detach(), *torch.autograd.grad(out, inputs, weights)


@each_backend
@each_mode
@each_padding
@each_alignment
@pytest.mark.parametrize("size", [*SIZES, (1, 5), (2, 1, 3), (1, 1)], ids=str)
def test_values_and_gradients_are_those_of_pytorch(
    backend: str, mode: str, padding: str, align: bool, size: tuple[int, ...]
) -> None:
    out = tuple(s + 3 for s in size)
    image, weights = noise(2, 3, *size), noise(2, 3, *out)
    grid = normalised(positions(size, out), size, align)
    with l2rfast.backend(backend):
        got = run(l2rfast.grid_sample, image, grid, weights, mode, padding, align)
    expected = run(F.grid_sample, image, grid, weights, mode, padding, align)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@each_backend
@each_mode
@each_padding
@each_alignment
@each_size
def test_values_on_grid_points_and_on_the_border_are_those_of_pytorch(
    backend: str, mode: str, padding: str, align: bool, size: tuple[int, ...]
) -> None:
    """Grid values are such that positions are exact: also the nearest of two voxels equally near is the same."""
    size = tuple(2 ** s.bit_length() + align for s in size)
    special = torch.tensor([0.0, -1.0, 1.0, -0.5, 0.25, -1.25, 1.25, 1.5, -3.0, 3.0, -7.5, 2.0, -2.0])
    chosen = torch.randint(len(special), (2, *size, len(size)))
    image, grid, weights = noise(2, 3, *size), special[chosen].double(), noise(2, 3, *size)
    with l2rfast.backend(backend):
        got = run(l2rfast.grid_sample, image, grid, weights, mode, padding, align)
    expected = run(F.grid_sample, image, grid, weights, mode, padding, align)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@each_padding
@each_alignment
def test_bicubic_is_that_of_pytorch(padding: str, align: bool) -> None:
    image, weights = noise(2, 3, 6, 7), noise(2, 3, 5, 4)
    grid = normalised(positions((6, 7), (5, 4), smooth=False), (6, 7), align)
    got, expected = (
        run(f, image, grid, weights, "bicubic", padding, align) for f in (l2rfast.grid_sample, F.grid_sample)
    )
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("batches", [(1, 2), (2, 1)], ids=str)
def test_bicubic_broadcasts_and_mixes_dtypes_as_the_others_do(batches: tuple[int, int]) -> None:
    image, grid = noise(batches[0], 3, 6, 7).float(), noise(batches[1], 5, 4, 2)
    whole = image.double().expand(2, 3, 6, 7), grid.expand(2, 5, 4, 2)
    got, expected = l2rfast.grid_sample(image, grid, "bicubic"), F.grid_sample(*whole, "bicubic", align_corners=False)
    assert got.dtype == image.dtype
    assert torch.equal(got, expected.float())


def test_the_defaults_are_those_of_pytorch() -> None:
    image, grid = noise(2, 3, 6, 7), noise(2, 5, 4, 2)
    expected = F.grid_sample(image, grid, "bilinear", "zeros", align_corners=False)
    torch.testing.assert_close(l2rfast.grid_sample(image, grid), expected, rtol=1e-12, atol=1e-12)
    positional = l2rfast.grid_sample(image, grid, "nearest", "border", True)
    named = l2rfast.grid_sample(input=image, grid=grid, mode="nearest", padding_mode="border", align_corners=True)
    assert torch.equal(positional, named)


@each_backend
@each_mode
@each_padding
@each_alignment
@each_size
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_positions_that_are_not_finite(
    backend: str, mode: str, padding: str, align: bool, size: tuple[int, ...], bad: float
) -> None:
    """NaN there, as before elsewhere; and no gradient through there."""
    image, weights = noise(2, 3, *size), noise(2, 3, *size)
    clean = normalised(positions(size, size), size, align)
    hit = torch.rand(2, *size, 1) < 0.2
    grid = torch.where(hit & (torch.arange(len(size)) == 0), bad, clean)
    of_image = hit.movedim(-1, 1)
    with l2rfast.backend(backend):
        out, *gradients = run(l2rfast.grid_sample, image, grid, weights, mode, padding, align)
        masked = weights.masked_fill(of_image, 0)
        clean_out, *clean_gradients = run(l2rfast.grid_sample, image, clean, masked, mode, padding, align)
        labels = l2rfast.grid_sample(torch.ones(2, 1, *size, dtype=torch.int16), grid, "nearest", "border", align)
    assert torch.equal(out.isnan(), of_image.expand_as(out))
    assert torch.equal(out.nan_to_num(0.0), clean_out.masked_fill(of_image, 0))
    torch.testing.assert_close(gradients, clean_gradients, rtol=1e-12, atol=1e-12)
    assert torch.equal(labels, (~of_image).to(torch.int16))


@each_backend
@each_padding
@each_alignment
@each_size
def test_label_maps_keep_their_dtype(backend: str, padding: str, align: bool, size: tuple[int, ...]) -> None:
    labels = torch.randint(0, 2, (2, 1, *size))
    grid = normalised(positions(size, size), size, align)
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.bool):
        with l2rfast.backend(backend):
            out = l2rfast.grid_sample(labels.to(dtype), grid, "nearest", padding, align)
        expected = F.grid_sample(labels.double(), grid, "nearest", padding, align)
        assert out.dtype == dtype
        assert torch.equal(out.double(), expected)


@each_backend
@each_mode
@each_alignment
@each_size
def test_it_is_a_warp(backend: str, mode: str, align: bool, size: tuple[int, ...]) -> None:
    """In float64 positions are alike to rounding, so that places near a grid point are left out."""
    image, places = noise(2, 3, *size), positions(size, size)
    where = torch.stack(torch.meshgrid(*(torch.arange(s) for s in size), indexing="ij"))
    with l2rfast.backend(backend):
        for padding in ("border", "zeros", *(["reflection"] if align else [])):
            got = l2rfast.grid_sample(image, normalised(places, size, align), mode, padding, align)
            warped = l2rfast.warp(image, places - where, mode="linear" if mode == "bilinear" else mode, padding=padding)
            torch.testing.assert_close(got, warped, rtol=1e-12, atol=1e-12)


@each_backend
def test_positions_of_16_bit_grids_are_computed_in_float32(backend: str) -> None:
    size = (6, 7)
    image = noise(2, 3, *size).float()
    for dtype in (torch.float16, torch.bfloat16):
        grid = normalised(positions(size, size), size, False).to(dtype)
        with l2rfast.backend(backend):
            got, expected = l2rfast.grid_sample(image, grid), l2rfast.grid_sample(image, grid.float())
        assert torch.equal(got, expected)


def test_more_than_2_to_the_31_elements() -> None:
    """Only the far corner of the image is written, and what is not touched takes no memory."""
    image = torch.empty(1, 1, 46400, 46400, dtype=torch.uint8)
    image[..., -2:, -2:] = torch.arange(1, 5, dtype=torch.uint8).view(2, 2)
    grid = normalised(
        torch.tensor([[46398.2, 46398.7], [46398.6, 46398.4]]).double().view(1, 2, 2, 1), (46400,) * 2, True
    )
    assert l2rfast.grid_sample(image, grid, "nearest", align_corners=True).flatten().tolist() == [2, 3]
