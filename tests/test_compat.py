"""Other libraries' layers on ours: what they compute, and what they leave to the library."""

from __future__ import annotations

import copy
import importlib.metadata
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from others import (
    MARKS,
    SIZES,
    blobs,
    compare,
    convexadam,
    dims,
    fireants_losses,
    fireants_samplers,
    images,
    monai,
    neurite,
    paddings,
    steps,
    vxf,
)
from torch import Tensor

import l2rfast
from l2rfast.compat import convexadam as compat_convexadam
from l2rfast.compat.voxelmorph import functional as compat_vxf

pytestmark = MARKS


@given(dims, paddings, st.booleans(), st.sampled_from(["bilinear", "nearest"]))
def test_grid_sample(ndim: int, padding: str, align: bool, mode: str) -> None:
    image, _, disp = images(ndim)
    grid = (disp.detach() / 3).movedim(1, -1).requires_grad_(mode == "bilinear")

    def sample(image: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(image, grid, mode, padding, align)

    compare("torch", sample, image, grid)


@given(dims, paddings, st.booleans(), st.booleans(), st.sampled_from(["bilinear", "nearest"]))
def test_affine_grid_and_grid_sample(ndim: int, padding: str, made: bool, sampled: bool, mode: str) -> None:
    """In one: the grid is not made, unless a reflection is not at the centres of voxels."""
    image = images(ndim)[0]
    drawn = torch.Generator().manual_seed(ndim)
    theta = torch.eye(ndim, ndim + 1) + 0.2 * torch.randn(2, ndim, ndim + 1, generator=drawn)
    theta = theta.double().requires_grad_(mode == "bilinear")
    grids = []

    def sample(image: Tensor, theta: Tensor) -> Tensor:
        grids.append(F.affine_grid(theta, [2, 1, *(11, 5, 6)[:ndim]], made))
        return F.grid_sample(image, grids[-1], mode, padding, sampled)

    compare("torch", sample, image, theta)
    assert grids[-1].untouched == (sampled or padding != "reflection")


def test_grids_that_are_used_otherwise() -> None:
    """A grid has the values, gradients and memory of PyTorch's, whatever asks for them."""
    theta = (torch.eye(2, 3, dtype=torch.float64) + 0.1)[None].requires_grad_()
    image = images(2, batch=1)[0].detach()
    expected = F.affine_grid(theta, [1, 1, 4, 5], True)
    values: list[Callable[[Tensor], Any]] = [
        lambda grid: grid + 1,
        lambda grid: grid[..., 0],
        lambda grid: torch.stack([grid, grid]),
        lambda grid: grid.detach().numpy(),
        lambda grid: grid.detach().tolist(),
        lambda grid: pickle.loads(pickle.dumps(grid.detach())),
        lambda grid: copy.deepcopy(grid.detach()),
        lambda grid: torch.autograd.grad(grid.square().sum(), theta)[0],
        lambda grid: torch.autograd.grad(F.grid_sample(image, grid * 2, align_corners=True).sum(), [grid, theta]),
        lambda grid: F.grid_sample(image, grid.detach().mul_(0.5), align_corners=True),
    ]
    facts: list[Callable[[Tensor], Any]] = [
        lambda grid: (grid.shape, grid.dtype, grid.device, grid.requires_grad, grid.is_leaf),
        lambda grid: repr(grid.detach()),
    ]
    for use in values + facts:
        with l2rfast.patch("torch"):
            found = use(F.affine_grid(theta, [1, 1, 4, 5], True))
        if use in facts:
            assert found == use(expected)
        else:
            torch.testing.assert_close(found, use(F.affine_grid(theta, [1, 1, 4, 5], True)))
    with l2rfast.patch("torch"):
        changed = F.affine_grid(theta.detach(), [1, 1, 4, 5], True)
        changed += 0.25
        found = F.grid_sample(image, changed, align_corners=True)
        before = F.affine_grid(theta, [1, 1, 4, 5], True)
        with torch.no_grad():
            theta += 0.5
        late = F.grid_sample(image, before, align_corners=True)
    torch.testing.assert_close(found, F.grid_sample(image, expected + 0.25, align_corners=True))
    torch.testing.assert_close(late, F.grid_sample(image, expected, align_corners=True))


def test_bicubic_is_pytorchs() -> None:
    image, _, disp = images(2)
    compare("torch", lambda *a: F.grid_sample(*a, "bicubic", "zeros", True), image, disp.movedim(1, -1), replaced=False)


def test_an_alignment_that_is_not_told_warns_as_pytorch_does() -> None:
    image, _, disp = images(2)
    with pytest.warns(UserWarning, match="Default grid_sample") as theirs:
        expected = F.grid_sample(image, disp.movedim(1, -1))
    with l2rfast.patch("torch"), pytest.warns(UserWarning, match="Default grid_sample") as ours:
        found = F.grid_sample(image, disp.movedim(1, -1))
    torch.testing.assert_close(found, expected)
    assert str(ours[0].message) == str(theirs[0].message)


@given(dims, paddings)
def test_monai_warp(ndim: int, padding: str) -> None:
    image, _, disp = images(ndim, channels=2)
    compare("monai", monai.networks.blocks.Warp(padding_mode=padding), image, disp)


@given(dims, st.integers(1, 4), st.sampled_from(["zeros", "border"]))
def test_monai_integration(ndim: int, count: int, padding: str) -> None:
    compare("monai", monai.networks.blocks.DVF2DDF(count, padding_mode=padding), images(ndim)[2])


@given(
    dims,
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from(["rectangular", "triangular", "gaussian"]),
    st.sampled_from(["none", "mean", "sum"]),
    st.sampled_from([0.0, 1e-5]),
)
def test_monai_local_ncc(ndim: int, window: int, kernel: str, reduction: str, smooth: float) -> None:
    assume(window > 1 or kernel != "gaussian")  # which MONAI 1.5 fails at itself
    a, b, _ = images(ndim)
    # In double: MONAI sums what cancels in the precision of its kernel.
    loss = monai.losses.LocalNormalizedCrossCorrelationLoss(ndim, window, kernel, reduction, smooth).double()
    # Before 1.6 the weights are float32, have a constant of 8 digits, and are cut to one side where there are many.
    old = kernel == "gaussian" and importlib.metadata.version("monai") < "1.6"
    compare("monai", loss, a, b, replaced=not old or window == 3, tolerance=1e-6 if old else 1e-7)


@given(dims, st.booleans(), st.sampled_from(["none", "mean", "sum"]))
def test_monai_diffusion(ndim: int, normalize: bool, reduction: str) -> None:
    loss = monai.losses.DiffusionLoss(normalize, reduction)
    compare("monai", loss, images(ndim)[2], replaced=not normalize and reduction == "mean")


@given(dims, st.booleans(), st.sampled_from(["none", "mean", "sum"]))
def test_monai_bending(ndim: int, normalize: bool, reduction: str) -> None:
    loss = monai.losses.BendingEnergyLoss(normalize, reduction)
    compare("monai", loss, images(ndim)[2], replaced=not normalize and reduction == "mean")


@given(
    dims,
    st.sampled_from(["gaussian", "b-spline"]),
    st.sampled_from([5, 6, 23, 40]),
    st.sampled_from([0.3, 0.5, 1.5]),
    st.sampled_from(["none", "mean", "sum"]),
)
def test_monai_mutual_information(ndim: int, kernel: str, bins: int, ratio: float, reduction: str) -> None:
    assume(bins > 5 or kernel == "gaussian")  # MONAI divides by the bins but for four
    a, b = (one.detach() / 2 + 0.3 for one in images(ndim)[:2])
    asked = (a.requires_grad_(), b.requires_grad_(kernel == "gaussian"))
    loss = monai.losses.GlobalMutualInformationLoss(kernel, bins, ratio, reduction)
    if kernel == "gaussian":  # in float32 so far
        loss.bin_centers = torch.linspace(0, 1, bins, dtype=torch.float64)[None, None]
        loss.preterm = torch.tensor((bins - 1) ** 2 / (2 * ratio**2), dtype=torch.float64)
    compare("monai", loss, *asked, replaced=bins > 5)


@given(dims, paddings, st.booleans())
def test_voxelmorph_warp(ndim: int, padding: str, grid: bool) -> None:
    image, _, disp = images(ndim)
    axes = [torch.arange(side, dtype=torch.float64) for side in SIZES[ndim]]
    mesh = torch.stack(torch.meshgrid(axes, indexing="ij")) if grid else None
    compare("voxelmorph", lambda *a: vxf.spatial_transform(*a, meshgrid=mesh, padding_mode=padding), image, disp)


@given(dims, st.integers(0, 4))
def test_voxelmorph_integration(ndim: int, count: int) -> None:
    velocity = images(ndim)[2]
    compare("voxelmorph", lambda v: vxf.integrate_vec(v, count), velocity, replaced=count > 0)
    torch.testing.assert_close(compat_vxf.integrate_vec(velocity, count), vxf.integrate_vec(velocity, count))


@given(dims)
def test_voxelmorph_composition(ndim: int) -> None:
    disp = images(ndim)[2]
    compare("voxelmorph", lambda a, b: vxf.compose([a, b, a]), disp, disp.detach() / 3)


@given(dims, st.sampled_from(["nearest", "linear"]))
def test_voxelmorph_labels(ndim: int, method: str) -> None:
    labels = torch.arange(torch.tensor(SIZES[ndim]).prod()).view(1, 1, *SIZES[ndim])
    disp = images(ndim, batch=1)[2].detach().float()
    expected = vxf.spatial_transform(labels, disp, method)
    found = compat_vxf.spatial_transform(labels, disp, method)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("what", ["affine", "corners", "shifted grid", "coordinates"])
def test_what_voxelmorph_does_itself(what: str) -> None:
    image, _, disp = images(3)
    options: dict[str, Any] = {}
    transform = disp
    if what == "affine":
        transform = torch.eye(4, dtype=torch.float64)[None].repeat(2, 1, 1)
    elif what == "corners":
        options["align_corners"] = False
    elif what == "coordinates":
        transform, options["isdisp"] = (disp / 4).detach(), False
    else:
        options["meshgrid"] = torch.ones(3, *SIZES[3], dtype=torch.float64)
    compare("voxelmorph", lambda a: vxf.spatial_transform(a, transform, **options), image, replaced=False)


@given(dims, st.sampled_from([1, 3, 9]), st.sampled_from(["mean", "sum", "amax", None]), st.booleans())
def test_neurite_local_ncc(ndim: int, window: int, reduction: str | None, keep: bool) -> None:
    a, b, _ = images(ndim, channels=2)
    compare("neurite", lambda a, b: neurite.ncc(a, b, window, reduction=reduction, keepdims=keep), a, b)


@given(dims, st.sampled_from([3, 5]), st.sampled_from(["rectangular", "triangular"]), st.sampled_from(["mean", "sum"]))
def test_fireants_local_ncc(ndim: int, window: int, kernel: str, reduction: str) -> None:
    a, b, _ = images(ndim)
    loss = fireants_losses.LocalNormalizedCrossCorrelationLoss(ndim, window, kernel, reduction)
    loss.kernel = loss.kernel.double() / loss.kernel.double().sum()
    loss.kernel_vol = loss.get_kernel_vol()[1]
    compare("fireants", loss, a, b)


def test_fireants_samplers() -> None:
    image, _, disp = images(3)
    sampler = fireants_samplers.torch_grid_sampler_3d
    grid = (disp.detach() / 6).movedim(1, -1).requires_grad_()
    compare("fireants", lambda image, grid: sampler(image, grid=grid), image, grid)
    assert fireants_samplers.F is F  # the module has PyTorch's again


@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3))
def test_convexadam_steps(radius: int, dilation: int, reach: int) -> None:
    pair = [blobs(seed) for seed in (1, 2)]

    def run() -> list[Tensor]:
        features = [F.avg_pool3d(steps.MINDSSC(image, radius, dilation, device="cpu"), 3) for image in pair]
        cost, cheapest = steps.correlate(*features, reach, 3, pair[0].shape[2:])
        mesh = F.affine_grid(
            reach * torch.eye(3, 4)[None], [1, 1, *[2 * reach + 1] * 3], align_corners=True
        )  # as convex_adam_pt makes it
        mesh = mesh.permute(0, 4, 1, 2, 3).reshape(3, -1, 1)
        field = steps.coupled_convex(cost, cheapest, mesh, 3, pair[0].shape[2:])
        return [*features, cost, field]

    expected = run()
    with l2rfast.patch("convexadam"):
        found = run()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Default grid_sample")
def test_convexadam_inverse_consistency() -> None:
    fields = [images(3)[2].detach().float() / 20, images(3)[2].detach().float() / 30]
    expected = steps.inverse_consistency(*fields, 6)
    with l2rfast.patch("convexadam"):
        found = steps.inverse_consistency(*fields, 6)
    for ours, theirs in zip((*found, *compat_convexadam.inverse_consistency(*fields, 6)), 2 * expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize(("iterations", "bound"), [(1, 1e-4), (10, 0.05)])
def test_convexadam_as_a_whole(iterations: int, bound: float) -> None:
    """One step agrees; the later ones amplify rounding: Adam moves a voxel by the sign of however small a gradient."""
    fixed = blobs(1)[0, 0]
    moving = fixed.roll((2, -1, 3), (0, 1, 2)) + 0.05 * blobs(2)[0, 0]
    options = {"grid_sp": 3, "disp_hw": 2, "dtype": torch.float32, "device": torch.device("cpu")}
    expected = convexadam.convex_adam_pt(fixed, moving, selected_niter=iterations, **options)
    with l2rfast.patch("convexadam"):
        found = convexadam.convex_adam_pt(fixed, moving, selected_niter=iterations, **options)
    differences = abs(found - expected)
    assert (differences.max() if iterations == 1 else differences.mean()) < bound
    assert abs(expected).max() > 1


@pytest.mark.filterwarnings("ignore:Default grid_sample")
def test_what_convexadam_does_itself() -> None:
    options = {"grid_sp": 3, "disp_hw": 2, "selected_niter": 1, "dtype": torch.float32, "device": torch.device("cpu")}
    pair = blobs(1)[0, 0], blobs(2)[0, 0]
    expected = convexadam.convex_adam_pt(*pair, selected_smooth=3, **options)
    with l2rfast.patch("convexadam"), pytest.warns(l2rfast.FallbackWarning, match="options that only ConvexAdam has"):
        found = convexadam.convex_adam_pt(*pair, selected_smooth=3, **options)
    assert abs(found - expected).max() < 1e-3
