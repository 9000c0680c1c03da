"""The local NCC: what it means, beside the peers' and by hand, and where others lose it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import runnable
from samples import field, noise
from torch import Tensor

import l2rfast
from l2rfast.kernels.common.precision import sums_in
from l2rfast.losses import LocalNCCLoss

Loss = Callable[[Tensor, Tensor], Tensor]
BACKENDS = [backend for backend in runnable("local_ncc") if backend != "triton"]  # interpreted, it takes minutes
SHAPES = [(2, 2, 40), (2, 2, 13, 14), (1, 2, 9, 10, 11)]


@pytest.fixture(params=[*BACKENDS, "cuda", "cuda-pairs"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each, and CUDA with sums in each form."""
    name, _, form = request.param.partition("-")
    if name == "cuda":
        request.getfixturevalue("host")
    with sums_in(form or "float64"):
        yield name


def with_gradients(loss: Loss, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and the gradients of its sum to both."""
    leaves = a.detach().requires_grad_(), b.detach().requires_grad_()
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


def errors(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    return [float((g.double() - e).norm() / e.norm()) for g, e in zip(got, expected, strict=True)]


def exact(a: Tensor, b: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    with l2rfast.backend("reference"):
        return with_gradients(lambda a, b: l2rfast.local_ncc(a, b, **options), a.double(), b.double())


def alike(*shape: int) -> tuple[Tensor, Tensor]:
    """Two images that correlate here and there."""
    a, b = noise(*shape), noise(*shape)
    return a, b + a * (noise(*shape[:2], *[1] * (len(shape) - 2)) + torch.linspace(-2, 2, shape[-1]))


# --- The peers, each in its own semantics


def monai(ndim: int, window: int, weighting: str, reduction: str, smooth_nr: float, eps: float) -> Loss:
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    kind = "rectangular" if weighting == "box" else weighting
    loss = LocalNormalizedCrossCorrelationLoss(ndim, window, kind, reduction, smooth_nr, eps)
    return lambda a, b: -loss(a, b)


def fireants(ndim: int, window: int, weighting: str, reduction: str, smooth_nr: float, eps: float) -> Loss:
    from fireants.losses.cc import LocalNormalizedCrossCorrelationLoss

    kind = "rectangular" if weighting == "box" else weighting
    loss = LocalNormalizedCrossCorrelationLoss(ndim, window, kind, reduction, smooth_nr, eps)
    loss.kernel = loss.kernel.double() / loss.kernel.double().sum()  # which it keeps in float32
    _, loss.kernel_vol = loss.get_kernel_vol()
    return lambda a, b: -loss(a, b)


def neurite(window: int | list[int], eps: float) -> Loss:
    from neurite.nn.functional import ncc

    return lambda a, b: ncc(a, b, window_size=window, eps=eps)


WEIGHTED = [
    *[(monai, "monai", weighting) for weighting in ("box", "triangular", "gaussian")],
    *[(fireants, "fireants", weighting) for weighting in ("box", "triangular")],
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("peer", "semantics", "weighting"), WEIGHTED)
def test_the_peers_values_and_gradients(
    peer: Callable[..., Loss], semantics: str, weighting: str, reduction: str
) -> None:
    """Their weights, but those of a box, are float32, whatever the images are."""
    for shape, window, (smooth_nr, eps) in product(SHAPES, (3, 5, 7), ((0.0, 1e-5), (1e-5, 1e-5), (0.1, 0.5))):
        if weighting == "triangular" and window == 3:
            continue  # to them, one voxel: a variance of rounding
        a, b = alike(*shape)
        theirs = peer(len(shape) - 2, window, weighting, reduction, smooth_nr, eps)
        options = {"weighting": weighting, "semantics": semantics, "eps": eps, "smooth_nr": smooth_nr}

        def ours(a: Tensor, b: Tensor, window: int = window, options: dict[str, Any] = options) -> Tensor:
            return l2rfast.local_ncc(a, b, window=window, reduction=reduction, **options)

        found = errors(with_gradients(ours, a, b), with_gradients(theirs, a, b))
        assert max(found) < (1e-9 if weighting == "box" else 3e-6), (shape, window, found)


@pytest.mark.parametrize("window", [3, 9, [5, 3, 1]])
def test_neurites_values_and_gradients(window: int | list[int]) -> None:
    for shape in SHAPES:
        sides = window if isinstance(window, int) else window[: len(shape) - 2]
        a, b = alike(*shape)
        got = with_gradients(lambda a, b, w=sides: l2rfast.local_ncc(a, b, window=w), a, b)
        expected = with_gradients(neurite(sides, 1e-5), a, b)
        assert max(errors(got, expected)) < 1e-9


# --- Where intensities are large beside their variation


def offset(half: bool) -> list[Tensor]:
    """Two images of unit noise, 10,000 above zero, in all or in half of them."""
    high = 1e4 * torch.ones(1, 1, 20, 22, 24)
    if half:
        high[..., :12] = 0
    a = noise(1, 1, 20, 22, 24)
    return [(a + high).float(), (a + 0.5 * noise(1, 1, 20, 22, 24) + high).float()]


@pytest.mark.parametrize("half", [False, True], ids=["all", "half"])
def test_an_offset_costs_no_accuracy(backend: str, half: bool) -> None:
    """Within 1e-3 of what float64 makes of the same float32 images, for value and gradients."""
    images = offset(half)
    for window in (3, 5, 9):
        with l2rfast.backend(backend):
            got = with_gradients(lambda a, b, w=window: l2rfast.local_ncc(a, b, window=w), *images)
        assert max(errors(got, exact(*images, window=window))) < 1e-3


@pytest.mark.parametrize(("peer", "semantics"), [(monai, "monai"), (fireants, "fireants")])
def test_an_offset_costs_the_peers_all(peer: Callable[..., Loss], semantics: str) -> None:
    a, b = offset(half=False)
    theirs = with_gradients(peer(3, 9, "box", "mean", 0.0, 1e-5), a, b)
    expected = exact(a, b, semantics=semantics)
    assert not max(errors(theirs, expected)) < 0.1
    with l2rfast.backend("cpp"):
        ours = with_gradients(lambda a, b: l2rfast.local_ncc(a, b, semantics=semantics), a, b)
    assert max(errors(ours, expected)) < 1e-3


def test_texture_beside_a_bright_spot(backend: str) -> None:
    """Where sums have run past it, and rows are short, long, and not a whole number of vectors."""
    for width in (5, 37, 50):
        a, b = alike(1, 1, 20, 22, width)
        a, b = 1 + 0.1 * a.float(), b.float()
        a[0, 0, 4, 5, width // 2] = 1e4
        with l2rfast.backend(backend):
            got = l2rfast.local_ncc(a, b, window=5, reduction="none")
        torch.testing.assert_close(got, exact(a, b, window=5, reduction="none")[0].float(), rtol=1e-3, atol=1e-6)


# --- Flat regions


def inside(x: Tensor, by: int) -> Tensor:
    return x[(..., *[slice(by, -by)] * (x.ndim - 2))]


@pytest.mark.parametrize("level", [0.0, 3.0, -1000.0, 1e6])
def test_a_flat_region_beside_a_bright_one_gives_nothing(backend: str, level: float) -> None:
    a, b = (1000 + 20 * noise(1, 1, 16, 17, 40).float() for _ in range(2))
    a[..., :20], b[..., :20] = level, 0.3 * level + 7
    with l2rfast.backend(backend):
        every = l2rfast.local_ncc(a, b, window=5, reduction="none")
        _, *gradients = with_gradients(lambda a, b: l2rfast.local_ncc(a, b, window=5), a, b)
    assert not inside(every, 2)[..., :16].any()  # windows of which all voxels are flat, and inside the image
    assert inside(every, 2)[..., 20:].all()
    for gradient in gradients:
        assert not inside(gradient, 4)[..., :12].any()
        assert gradient.isfinite().all()


def test_a_flat_region_after_texture_gives_nothing(backend: str) -> None:
    """Where sums have run past little variation far from the mean of the image."""
    a, b = torch.zeros(1, 1, 40, 40, 64), torch.zeros(1, 1, 40, 40, 64)
    a[..., 20:], b[..., 20:] = 1e6, 3e5
    for image in (a, b):
        image[:, :, :20] += 20 * noise(1, 1, 20, 40, 64).float()
    with l2rfast.backend(backend):
        got = l2rfast.local_ncc(a, b, window=5, reduction="none")
    assert torch.equal(got == 0, exact(a, b, window=5, reduction="none")[0] == 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_flat_images_have_no_correlation(backend: str, dtype: torch.dtype) -> None:
    for border, one, other in (("zeros", 0.0, 0.0), ("zeros", 0.0, 5.0), ("valid", 0.1, 5.0), ("valid", -1e4, 0.0)):
        a, b = (torch.full((1, 1, 12, 13, 14), value, dtype=dtype) for value in (one, other))
        with l2rfast.backend(backend):
            got = with_gradients(lambda a, b, s=border: l2rfast.local_ncc(a, b, window=3, border=s), a, b)
        assert not any(x.any() for x in got)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1e-18, 1e-6, 1.0, 1e5, 1e15]),
    st.sampled_from([0.0, 1.0, 1e4, -1e12]),
    st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    st.sampled_from([1, 3, 9]),
    st.sampled_from(["zeros", "valid"]),
)
def test_nothing_is_nan_or_out_of_range(
    seed: int, scale: float, above: float, sparsity: float, window: int, border: str
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def image() -> Tensor:
        values = scale * torch.randn(1, 2, 7, 8, 9, generator=generator)
        return above + torch.where(torch.rand(values.shape, generator=generator) < sparsity, 0, values)

    a, b = image(), image()
    every = l2rfast.local_ncc(a, b, window=window, border=border, reduction="none")
    assert ((every >= 0) & (every <= 1)).all()
    got = with_gradients(lambda a, b: l2rfast.local_ncc(a, b, window=window, border=border), a, b)
    assert all(x.isfinite().all() for x in got)
    both = l2rfast.local_ncc(b, a, window=window, border=border, reduction="none")
    torch.testing.assert_close(both, every, rtol=1e-6, atol=1e-7)


# --- Masks, borders, reductions


def by_hand(a: Tensor, b: Tensor, mask: Tensor, window: int, eps: float, border: str) -> Tensor:
    """Window by window, of 2-D images (H, W)."""
    values = torch.zeros_like(a)
    r = window // 2
    for y, x in mask.nonzero().tolist():
        rows, columns = slice(max(y - r, 0), y + r + 1), slice(max(x - r, 0), x + r + 1)
        counts = mask[rows, columns]
        u, v = a[rows, columns][counts], b[rows, columns][counts]
        if border == "zeros":
            outside = u.new_zeros(window**2 - counts.numel())
            u, v = torch.cat([u, outside]), torch.cat([v, outside])
        u, v = u - u.mean(), v - v.mean()
        values[y, x] = (u * v).sum() ** 2 / ((u * u).sum() * (v * v).sum() + eps)
    return values


@pytest.mark.parametrize("border", ["zeros", "valid"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_windows_by_hand(backend: str, border: str, share: float) -> None:
    a, b = noise(9, 11), noise(9, 11)
    mask = noise(9, 11).argsort().argsort() < share * 11
    assert mask.any()
    options = {"window": 5, "eps": 0.1, "border": border, "mask": None if share == 1 else mask[None, None]}
    expected = by_hand(a, b, mask, 5, 0.1, border)
    with l2rfast.backend(backend):
        for reduction, value in (("none", expected), ("sum", expected.sum()), ("mean", expected.sum() / mask.sum())):
            got = l2rfast.local_ncc(a[None, None], b[None, None], reduction=reduction, **options)
            torch.testing.assert_close(got.squeeze(), value, rtol=1e-12, atol=1e-12)


def test_what_lies_outside_the_mask_does_not_matter(backend: str) -> None:
    a, b = alike(2, 2, 9, 10, 11)
    mask = noise(2, 1, 9, 10, 11) < 0.5
    with l2rfast.backend(backend):
        loss = LocalNCCLoss(window=3)
        clean = with_gradients(lambda a, b: loss(a, b, mask), a, b)
        a, b = a.where(mask, torch.nan), b.where(mask, torch.inf)
        dirty = with_gradients(lambda a, b: loss(a, b, mask), a, b)
    for c, d in zip(clean, dirty, strict=True):
        torch.testing.assert_close(c, d, rtol=1e-12, atol=0)
    assert all(not gradient.where(mask, 0).equal(torch.zeros_like(gradient)) for gradient in clean[1:])
    assert all(not gradient.where(~mask, 0).any() for gradient in clean[1:])


def test_an_empty_mask_gives_nothing() -> None:
    a, b = alike(1, 1, 9, 10, 11)
    mask = torch.zeros(1, 1, 9, 10, 11)
    for reduction in ("mean", "sum", "none"):
        options = {"mask": mask, "reduction": reduction}
        got = with_gradients(lambda a, b, o=options: l2rfast.local_ncc(a, b, **o), a, b)
        assert not any(x.any() for x in got)


def test_a_value_that_is_not_finite_stays_in_its_windows(backend: str) -> None:
    """In images of several stretches of running sums."""
    a, b = noise(1, 1, 70, 40, 36).float(), noise(1, 1, 70, 40, 36).float()
    a[0, 0, 5, 6, 7], b[0, 0, 50, 30, 20] = torch.nan, torch.inf
    bad = torch.zeros_like(a, dtype=torch.bool)
    for z, y, x in ((5, 6, 7), (50, 30, 20)):
        bad[..., z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = True
    with l2rfast.backend(backend):
        every = l2rfast.local_ncc(a, b, window=3, reduction="none")
    assert torch.equal(every.isfinite(), ~bad)


def test_an_image_correlates_with_itself() -> None:
    image = noise(2, 1, 14, 15, 16)
    for other in (image, -3 * image, 0.01 * image, image + 0.01):
        assert 0.999 < l2rfast.local_ncc(image, other) <= 1
    assert l2rfast.local_ncc(image, noise(2, 1, 14, 15, 16)) < 0.1


def test_correlation_sees_no_scale() -> None:
    a, b = noise(1, 2, 14, 15, 16), noise(1, 2, 14, 15, 16)
    plain = l2rfast.local_ncc(a, b, eps=1e-9)
    torch.testing.assert_close(l2rfast.local_ncc(50 * a, -0.3 * b, eps=1e-9), plain, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("semantics", "power"), [("voxelmorph", 4), ("monai", 2)])
def test_on_what_scale_eps_and_smooth_nr_are(semantics: str, power: int) -> None:
    """So many times brighter images have the same value with constants that are larger by that power."""
    a, b = noise(1, 1, 6, 7, 8), noise(1, 1, 6, 7, 8)
    options = {"window": 3, "semantics": semantics, "reduction": "none"}
    expected = l2rfast.local_ncc(a, b, eps=20.0, smooth_nr=3.0, **options)
    brighter = l2rfast.local_ncc(10 * a, 10 * b, eps=20.0 * 10**power, smooth_nr=3.0 * 10**4, **options)
    torch.testing.assert_close(brighter, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(l2rfast.local_ncc(10 * a, 10 * b, eps=20.0, smooth_nr=3.0, **options), expected)


def test_a_window_beyond_the_image() -> None:
    """Every window holds the whole image, and zeros around it."""
    a, b = noise(1, 1, 4, 5), noise(1, 1, 4, 5)
    volume = 21**2
    cross, var_a, var_b = (((x * y).sum() - x.sum() * y.sum() / volume) for x, y in ((a, b), (a, a), (b, b)))
    expected = cross**2 / (var_a * var_b + 1e-5)
    torch.testing.assert_close(l2rfast.local_ncc(a, b, window=21), expected, rtol=1e-12, atol=0)


def test_a_window_of_one_voxel_is_flat() -> None:
    assert not l2rfast.local_ncc(noise(1, 1, 5, 6), noise(1, 1, 5, 6), window=1, reduction="none").any()


# --- The loss, and the loss of a warped image


def test_the_loss_is_minus_the_correlation() -> None:
    a, b = alike(1, 2, 9, 10, 11)
    options = {"window": (3, 5, 1), "weighting": "gaussian", "reduction": "none", "border": "valid"}
    loss = LocalNCCLoss(**options)
    assert torch.equal(loss(a, b), -l2rfast.local_ncc(a, b, **options))
    assert "window=(3, 5, 1)" in repr(loss)
    assert "border='valid'" in repr(loss)


def test_gradients_can_be_asked_for_again_and_in_batches() -> None:
    """What the forward pass made is given away the first time."""
    a, b = (image.requires_grad_() for image in alike(1, 2, 9, 10, 11))
    (first,) = torch.autograd.grad(l2rfast.local_ncc(a, b), a)
    factors = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for batched in (False, True):
        value = l2rfast.local_ncc(a, b)
        for _ in range(2):
            (several,) = torch.autograd.grad(value, a, factors, retain_graph=True, is_grads_batched=True)
            torch.testing.assert_close(several, factors.view(3, *[1] * 5) * first, rtol=1e-12, atol=0)
            if not batched:
                assert torch.equal(torch.autograd.grad(value, a, retain_graph=True)[0], first)


@pytest.mark.parametrize("padding", ["border", "zeros", "reflection"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_of_a_warped_image(padding: str, masked: bool) -> None:
    """By item, as local_ncc of warp and autograd make it."""
    for size, out, channels in (((7, 8), (6, 9), 1), ((5, 6, 4), (6, 5, 7), 2)):
        fixed, moving = noise(2, channels, *out), noise(2, channels, *size)
        disp = field(size, out, smooth=False).requires_grad_()
        options: dict[str, Any] = {"window": 3, "eps": 0.1}
        mask = noise(2, 1, *out) < 0.5 if masked else None
        loss, gradient = l2rfast.warp_local_ncc(fixed, moving, disp, padding=padding, mask=mask, **options)
        for n in range(2):
            item = slice(n, n + 1)
            warped = l2rfast.warp(moving[item], disp[item], padding=padding)
            of_item = mask[item] if mask is not None else None
            expected = -l2rfast.local_ncc(fixed[item], warped, mask=of_item, **options)
            (slope,) = torch.autograd.grad(expected, disp)
            torch.testing.assert_close(loss[n], expected, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(gradient[item], slope[item], rtol=1e-10, atol=1e-14)
        (scaled,) = torch.autograd.grad(3 * loss.sum(), disp)
        torch.testing.assert_close(scaled, 3 * gradient, rtol=1e-12, atol=0)


def test_a_field_that_is_not_finite() -> None:
    """The loss says so; where no window sees it, the gradient is as before."""
    fixed, moving, disp = noise(1, 1, 40, 36), noise(1, 1, 40, 36), field((40, 36), (40, 36))[:1]
    _, clean = l2rfast.warp_local_ncc(fixed, moving, disp, window=3)
    disp[0, 0, 8, 9] = torch.nan
    loss, gradient = l2rfast.warp_local_ncc(fixed, moving, disp, window=3)
    assert loss.isnan()
    far = torch.ones(40, 36, dtype=torch.bool)
    far[6:11, 7:12] = False
    torch.testing.assert_close(gradient[..., far], clean[..., far], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("window", [3, 9, 21])
def test_same_bits_for_any_number_of_threads_in_several_parts(window: int) -> None:
    a, b, disp = noise(1, 1, 70, 90, 50).float(), noise(1, 1, 70, 90, 50).float(), noise(1, 3, 70, 90, 50).float()
    results = []
    for threads in (1, 2, 5, 16):
        torch.set_num_threads(threads)
        results.append(
            [
                *with_gradients(lambda a, b: l2rfast.local_ncc(a, b, window=window), a, b),
                *l2rfast.warp_local_ncc(a, b, disp, window=window),
            ]
        )
    torch.set_num_threads(1)
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))
