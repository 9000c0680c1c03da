"""Facts about warping that are not true of every operation."""

from __future__ import annotations

import resource
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from operators import runnable
from samples import MODES, PADDINGS, field, noise
from torch import Tensor

import l2rfast
from l2rfast import warp

SIZES = [(6, 7), (4, 6, 5)]
LABELS = [torch.uint8, torch.uint16, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]

each_backend = pytest.mark.parametrize("backend", runnable("warp", ("cpu",)))
each_mode = pytest.mark.parametrize("mode", MODES)
each_padding = pytest.mark.parametrize("padding", PADDINGS)
each_size = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])


def shift(size: tuple[int, ...], *steps: float) -> Tensor:
    """The same displacement everywhere, for a batch of 2."""
    return torch.tensor(steps, dtype=torch.float64).view(1, -1, *[1] * len(size)).expand(2, -1, *size)


@each_backend
@each_mode
@each_padding
@each_size
def test_identity_returns_the_image_bit_for_bit(backend: str, mode: str, padding: str, size: tuple[int, ...]) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        image = noise(2, 3, *size).to(dtype)
        with l2rfast.backend(backend):
            assert torch.equal(warp(image, torch.zeros(2, len(size), *size), mode=mode, padding=padding), image)


@each_backend
@each_padding
@each_size
def test_sampling_is_that_of_grid_sample(backend: str, padding: str, size: tuple[int, ...]) -> None:
    for mode in MODES:
        image, disp = noise(2, 3, *size), field(size, tuple(s + 1 for s in size))
        weights = noise(2, 3, *disp.shape[2:])
        scale = 2 / (torch.tensor(size, dtype=torch.float64) - 1)

        def sampled(image: Tensor, disp: Tensor, mode: str = mode, scale: Tensor = scale) -> Tensor:
            axes = [torch.arange(s, dtype=torch.float64) for s in disp.shape[2:]]
            grid = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + disp).movedim(1, -1) * scale - 1
            theirs = "bilinear" if mode == "linear" else mode
            return F.grid_sample(image, grid.flip(-1), theirs, padding, align_corners=True)

        inputs = image.requires_grad_(), disp.requires_grad_()
        with l2rfast.backend(backend):
            ours = warp(*inputs, mode=mode, padding=padding)
            gradients = torch.autograd.grad(ours, inputs, weights)
        theirs = sampled(*inputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients, torch.autograd.grad(theirs, inputs, weights), rtol=1e-11, atol=1e-11)


@each_backend
@each_mode
@each_padding
@each_size
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_displacements_that_are_not_finite(
    backend: str, mode: str, padding: str, size: tuple[int, ...], bad: float
) -> None:
    """NaN there, as before elsewhere; and no gradient through there."""
    image, clean, weights = noise(2, 3, *size), field(size, size), noise(2, 3, *size)
    hit = torch.rand(2, 1, *size) < 0.2
    component = torch.arange(len(size)).view(-1, *[1] * len(size)) == len(size) - 1
    disp = torch.where(hit & component, bad, clean)

    def run(disp: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        inputs = image.detach().requires_grad_(), disp.requires_grad_()
        out = warp(*inputs, mode=mode, padding=padding)
        return out.detach(), *torch.autograd.grad(out, inputs, weights)

    with l2rfast.backend(backend):
        out, to_image, to_disp = run(disp, weights)
        clean_out, clean_to_image, clean_to_disp = run(clean, weights.masked_fill(hit, 0))
        labels = warp(torch.ones(2, 1, *size, dtype=torch.int16), disp, mode="nearest")
    assert torch.equal(out.isnan(), hit.expand_as(out))
    assert torch.equal(out.nan_to_num(0.0), clean_out.masked_fill(hit, 0))
    torch.testing.assert_close(to_image, clean_to_image, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(to_disp, clean_to_disp, rtol=1e-12, atol=1e-12)
    assert torch.equal(labels, (~hit).to(torch.int16))


@each_backend
@each_mode
@each_size
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_displacements(backend: str, mode: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    image = noise(2, 3, *size).to(dtype)
    last = image[(..., *[slice(-1, None)] * len(size))].expand_as(image)
    with l2rfast.backend(backend):
        for huge in (2.0**31, 2.0**63, 1e30, torch.finfo(dtype).max):
            disp = shift(size, *[huge] * len(size)).to(dtype).requires_grad_()
            border = warp(image, disp, mode=mode)
            assert torch.equal(border, last)
            border.sum().backward()
            assert not disp.grad.any()
            assert torch.equal(warp(image, disp, mode=mode, padding="zeros"), torch.zeros_like(image))
            mirrored = warp(image, disp, mode=mode, padding="reflection")
            assert image.min() <= mirrored.min() <= mirrored.max() <= image.max()


@each_backend
@each_padding
@each_size
@pytest.mark.parametrize("dtype", LABELS, ids=str)
def test_label_maps_keep_their_dtype(backend: str, padding: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    extremes = torch.tensor([False, True]) if dtype == torch.bool else torch.iinfo(dtype)
    low, high = (0, 1) if dtype == torch.bool else (extremes.min, extremes.max)
    palette = torch.tensor([0, 1, low, high, high - 1]).to(dtype)
    chosen = torch.randint(len(palette), (2, 3, *size))
    disp = field(size, size, smooth=False)
    with l2rfast.backend(backend):
        out = warp(palette[chosen], disp, mode="nearest", padding=padding)
        # 0 is entry 0 of the palette, and what zero padding gives: entries warp as labels do.
        entries = warp(chosen.double(), disp, mode="nearest", padding=padding).long()
    assert out.dtype == dtype
    assert torch.equal(out, palette[entries])


@each_backend
def test_label_maps_give_no_gradient(backend: str) -> None:
    disp = field((5, 4), (5, 4)).requires_grad_()
    with l2rfast.backend(backend):
        out = warp(torch.ones(2, 1, 5, 4, dtype=torch.uint8), disp, mode="nearest")
    assert not out.is_floating_point()
    assert not out.requires_grad


@each_backend
def test_image_and_field_of_different_dtypes(backend: str) -> None:
    """The image's dtype; positions as exact as the wider of the two."""
    image, disp = noise(2, 3, 5, 4), field((5, 4), (5, 4))
    full, half = (torch.float32, torch.float64), (torch.float16, torch.bfloat16)
    for of_image, of_disp in product(full + half, repeat=2):
        pair = image.to(of_image, copy=True).requires_grad_(), disp.to(of_disp, copy=True).requires_grad_()
        with l2rfast.backend(backend):
            out = warp(*pair)
            out.sum().backward()
        with l2rfast.backend("reference"):
            expected = warp(pair[0].detach().double(), pair[1].detach().double())
        assert out.dtype == of_image
        assert [t.grad.dtype for t in pair] == [of_image, of_disp]
        torch.testing.assert_close(out, expected.to(of_image))


@each_backend
@each_mode
@each_padding
def test_2d_is_3d_with_one_plane(backend: str, mode: str, padding: str) -> None:
    image, disp, weights = noise(2, 3, 6, 7), field((6, 7), (5, 8), smooth=False), noise(2, 3, 5, 8)

    def run(image: Tensor, disp: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        inputs = image.requires_grad_(), disp.requires_grad_()
        out = warp(*inputs, mode=mode, padding=padding)
        return out.detach(), *torch.autograd.grad(out, inputs, weights)

    with l2rfast.backend(backend):
        flat = run(image, disp, weights)
        deep = run(
            image.detach()[:, :, None], F.pad(disp.detach(), (0, 0, 0, 0, 1, 0))[:, :, None], weights[:, :, None]
        )
    torch.testing.assert_close(deep[0][:, :, 0], flat[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(deep[1][:, :, 0], flat[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(deep[2][:, 1:, 0], flat[2], rtol=1e-12, atol=1e-12)


@each_backend
@each_mode
@each_padding
@each_size
def test_memory_formats_do_not_change_a_bit(backend: str, mode: str, padding: str, size: tuple[int, ...]) -> None:
    last = torch.channels_last if len(size) == 2 else torch.channels_last_3d

    def run(image: Tensor, disp: Tensor) -> tuple[Tensor, ...]:
        inputs = image.detach().requires_grad_(), disp.detach().requires_grad_()
        with l2rfast.backend(backend):
            out = warp(*inputs, mode=mode, padding=padding)
            return out.detach(), *torch.autograd.grad(out, inputs, weights)

    for dtype in (torch.float64, torch.float32, torch.float16):
        image, disp, weights = (t.to(dtype) for t in (noise(2, 3, *size), field(size, size), noise(2, 3, *size)))
        expected = run(image, disp)
        for arranged in (
            run(image.to(memory_format=last), disp),
            run(image, disp.to(memory_format=last)),
            run(image.to(memory_format=last), disp.movedim(1, -1).contiguous().movedim(-1, 1)),
        ):
            assert all(map(torch.equal, arranged, expected))


@each_backend
@each_size
def test_gradients_that_are_not_asked_for_are_empty(backend: str, size: tuple[int, ...]) -> None:
    image, disp, grad = noise(2, 3, *size), field(size, size), noise(2, 3, *size)
    for mode, (to_image, to_disp) in product(MODES, product((True, False), repeat=2)):
        with l2rfast.backend(backend):
            made = torch.ops.l2rfast.warp_backward(grad, image, disp, mode, "border", to_image, to_disp)
        assert [m.shape for m in made] == [image.shape if to_image else (0,), disp.shape if to_disp else (0,)]


@each_backend
@each_padding
@each_size
def test_second_derivatives_in_16_bits(backend: str, padding: str, size: tuple[int, ...]) -> None:
    """Each is rounded once."""
    inputs = noise(2, 3, *size), noise(2, 3, *size), field(size, size, smooth=False), noise(2, len(size), *size)
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        rounded = [t.to(dtype) for t in inputs]
        with l2rfast.backend(backend):
            got = torch.ops.l2rfast.warp_double_backward(*rounded, padding)
        with l2rfast.backend("reference"):
            expected = torch.ops.l2rfast.warp_double_backward(*(t.double() for t in rounded), padding)
        assert [g.dtype for g in got] == [dtype, torch.float32, dtype]
        for g, e in zip(got, expected, strict=True):
            assert (g - e).norm() <= tolerance * e.norm()


@each_backend
@each_mode
@each_padding
@each_size
def test_second_derivatives_where_displacements_are_not_finite(
    backend: str, mode: str, padding: str, size: tuple[int, ...]
) -> None:
    """None there, and elsewhere as if nothing had been sampled there."""
    clean = field(size, size)
    hit = torch.rand(2, 1, *size) < 0.2
    disp = torch.where(hit, torch.tensor([torch.nan, torch.inf]).view(2, *[1] * (clean.ndim - 1)), clean)

    def run(disp: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        inputs = image.detach().requires_grad_(), disp.requires_grad_()
        weights = weights.requires_grad_()
        out = warp(*inputs, mode=mode, padding=padding)
        gradients = torch.autograd.grad(out, inputs, weights, create_graph=True)
        ends, by = zip(*((g, t) for g, t in zip(gradients, tangents, strict=True) if g.requires_grad), strict=True)
        return torch.autograd.grad(ends, (*inputs, weights), by, materialize_grads=True, allow_unused=True)

    image, weights, tangents = noise(2, 3, *size), noise(2, 3, *size), (noise(2, 3, *size), noise(*clean.shape))
    with l2rfast.backend(backend):
        got = run(disp, weights.clone())
        expected = run(clean, weights.masked_fill(hit, 0))
    torch.testing.assert_close(got[0], expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[2], expected[2].masked_fill(hit, 0), rtol=1e-12, atol=1e-12)


# More elements than 2^31: in a plane, in a volume, in the channels of one image, in a batch.
HUGE = [(1, 1, 46400, 46400), (1, 1, 1300, 1300, 1300), (1, 2100, 1024, 1024), (2100, 1, 1024, 1024)]


@each_backend
@each_mode
@pytest.mark.parametrize("shape", HUGE, ids=lambda s: "x".join(map(str, s)))
def test_more_than_2_to_the_31_elements(backend: str, mode: str, shape: tuple[int, ...]) -> None:
    """Only the far corner of the last image is written, and what is not touched takes no memory."""
    ndim, before = len(shape) - 2, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = torch.empty(shape, dtype=torch.uint8 if mode == "nearest" else torch.float16)
    corner = image[(..., *[slice(-2, None)] * ndim)]
    corner[-1, -1] = torch.arange(1, 1 + 2**ndim).view([2] * ndim)
    to_corner = torch.tensor(shape[2:]).view(1, ndim, *[1] * ndim) - 2

    def run(image: Tensor, disp: Tensor) -> tuple[Tensor, Tensor | None]:
        disp.requires_grad_(mode == "linear")
        with l2rfast.backend(backend):
            out = warp(image, disp, mode=mode)[-1:, -1:]
            return out, torch.autograd.grad(out, disp)[0] if mode == "linear" else None

    far, near = run(image, to_corner + 0.75), run(corner[-1:, -1:].clone(), torch.full(to_corner.shape, 0.75))
    assert image.numel() > 2**31
    assert near[0].any()
    torch.testing.assert_close(far, near, rtol=0, atol=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


@each_backend
@each_mode
def test_strides_of_more_than_2_to_the_31_elements(backend: str, mode: str) -> None:
    near, disp = noise(1, 2, 3, 3).half(), field((3, 3), (4, 5))[:1]
    spread = torch.empty(2**31 + 8, dtype=torch.float16).as_strided(near.shape, (0, 4, 2**30, 1)).copy_(near)
    with l2rfast.backend(backend):
        assert torch.equal(warp(spread, disp, mode=mode), warp(near, disp, mode=mode))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """An image and a field of any small sizes and displacements."""
    ndim = draw(st.sampled_from((2, 3)))
    sizes = st.lists(st.integers(1, 6), min_size=ndim, max_size=ndim)
    size, out = draw(sizes), draw(sizes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    image = torch.randn(1, 2, *size, dtype=torch.float64, generator=generator)
    reach = draw(st.sampled_from((0.5, 3.0, 100.0)))
    return image, reach * torch.randn(1, ndim, *out, dtype=torch.float64, generator=generator)


modes, paddings = st.sampled_from(MODES), st.sampled_from(PADDINGS)


@given(problems(), modes, paddings, st.floats(-3, 3))
def test_linear_in_the_image(problem: tuple[Tensor, Tensor], mode: str, padding: str, factor: float) -> None:
    image, disp = problem
    other = image.flip(-1).exp()
    combined = warp(factor * image + other, disp, mode=mode, padding=padding)
    apart = factor * warp(image, disp, mode=mode, padding=padding) + warp(other, disp, mode=mode, padding=padding)
    torch.testing.assert_close(combined, apart, rtol=1e-12, atol=1e-12)


@given(problems(), modes, st.data())
def test_an_integer_shift_moves_voxels(problem: tuple[Tensor, Tensor], mode: str, data: st.DataObject) -> None:
    image, _ = problem
    size = image.shape[2:]
    steps = [data.draw(st.integers(-s - 1, s + 1)) for s in size]
    disp = shift(size, *steps)[:1]
    border, zeros = image, image
    for axis, (s, step) in enumerate(zip(size, steps, strict=True), start=2):
        at = torch.arange(s) + step
        outside = ((at < 0) | (at >= s)).view(-1, *[1] * (image.ndim - 1 - axis))
        border = border.index_select(axis, at.clamp(0, s - 1))
        zeros = zeros.index_select(axis, at.clamp(0, s - 1)).masked_fill(outside, 0)
    assert torch.equal(warp(image, disp, mode=mode, padding="border"), border)
    assert torch.equal(warp(image, disp, mode=mode, padding="zeros"), zeros)


@given(problems(), paddings)
def test_nearest_only_copies(problem: tuple[Tensor, Tensor], padding: str) -> None:
    image, disp = problem
    for c in range(2):
        values = set(image[0, c].flatten().tolist()) | ({0.0} if padding == "zeros" else set())
        assert set(warp(image, disp, mode="nearest", padding=padding)[0, c].flatten().tolist()) <= values


@given(problems(), paddings)
def test_linear_stays_between_the_extremes(problem: tuple[Tensor, Tensor], padding: str) -> None:
    image, disp = problem
    low, high = min(image.min().item(), 0.0), max(image.max().item(), 0.0)
    out = warp(image, disp, padding=padding)
    assert low - 1e-12 <= out.min() <= out.max() <= high + 1e-12
