"""Other libraries' layers on ours: what they compute, what they leave to the library, and what a patch changes."""

from __future__ import annotations

import copy
import importlib.metadata
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import l2rfast
from l2rfast.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the libraries import
    import convexAdam.convex_adam_MIND as convexadam
    import convexAdam.convex_adam_utils as steps
    import fireants.interpolator.grid_sample as fireants_samplers
    import fireants.losses.cc as fireants_losses
    import monai.losses
    import monai.networks.blocks
    import neurite.nn.functional as neurite
    import voxelmorph
    import voxelmorph.nn.functional as vxf

    from l2rfast.compat import convexadam as compat_convexadam
    from l2rfast.compat import monai as compat_monai
    from l2rfast.compat import patching
    from l2rfast.compat.voxelmorph import functional as compat_vxf
    from l2rfast.compat.voxelmorph import layers, losses, modules

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp"),  # which says that it samples by PyTorch
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence"),  # in MONAI's differences
]
ALL = tuple(patching.LIBRARIES)
SIZES = {2: (9, 8), 3: (7, 6, 8)}


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    assert not patching._patched


def images(ndim: int, batch: int = 2, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Two images and a field of some voxels, float64, that require gradients."""
    drawn = torch.Generator().manual_seed(ndim)
    shapes = [(batch, channels, *SIZES[ndim])] * 2 + [(batch, ndim, *SIZES[ndim])]
    a, b, disp = (torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in shapes)
    return a.requires_grad_(), b.requires_grad_(), (2 * disp).requires_grad_()


def compare(library: str, function: Callable[..., Tensor], *inputs: Tensor, replaced: bool = True) -> None:
    """The value and gradients of a call are those without the patch; and the patch took it, or did not."""

    def measured() -> list[Tensor]:
        value = function(*inputs)
        weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape) + 2
        asked = [one for one in inputs if one.requires_grad]
        return [value, *torch.autograd.grad((value * weights).sum(), asked)]

    expected = measured()
    before = sum(calls.replaced for calls in l2rfast.patch_report().values())
    with l2rfast.patch(library), warnings.catch_warnings():
        warnings.simplefilter("ignore" if not replaced else "error", l2rfast.FallbackWarning)
        found = measured()
    after = sum(calls.replaced for calls in l2rfast.patch_report().values())
    assert (after > before) == replaced
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


dims = st.sampled_from([2, 3])
paddings = st.sampled_from(["zeros", "border", "reflection"])


@given(dims, paddings, st.booleans(), st.sampled_from(["bilinear", "nearest"]))
def test_grid_sample(ndim: int, padding: str, align: bool, mode: str) -> None:
    image, _, disp = images(ndim)
    grid = (disp.detach() / 3).movedim(1, -1).requires_grad_(mode == "bilinear")

    def sample(image: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(image, grid, mode, padding, align)

    compare("torch", sample, image, grid)


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
    a, b, _ = images(ndim)
    # In double: MONAI sums what cancels in the precision of its kernel.
    loss = monai.losses.LocalNormalizedCrossCorrelationLoss(ndim, window, kernel, reduction, smooth).double()
    compare("monai", loss, a, b)


@given(dims, st.booleans(), st.sampled_from(["none", "mean", "sum"]))
def test_monai_diffusion(ndim: int, normalize: bool, reduction: str) -> None:
    loss = monai.losses.DiffusionLoss(normalize, reduction)
    compare("monai", loss, images(ndim)[2], replaced=not normalize and reduction == "mean")


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


def blobs(seed: int) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(1, 1, 6, 6, 6, generator=drawn), (36, 30, 42), mode="trilinear")


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


# VoxelMorph 0.2, which is not installed: against what it is made of.


@given(dims, st.sampled_from(["bilinear", "nearest"]))
def test_layers_of_0_2(ndim: int, mode: str) -> None:
    image, _, disp = images(ndim)
    size = torch.tensor(SIZES[ndim], dtype=torch.float64).view(-1, *[1] * ndim)
    axes = torch.meshgrid([torch.arange(side, dtype=torch.float64) for side in SIZES[ndim]], indexing="ij")
    positions = 2 * ((torch.stack(axes) + disp) / (size - 1) - 0.5)
    expected = F.grid_sample(image, positions.movedim(1, -1).flip(-1), mode, "zeros", align_corners=True)
    layer = layers.SpatialTransformer(SIZES[ndim], mode)
    torch.testing.assert_close(layer(image, disp), expected)
    assert list(layer.state_dict()) == ["grid"]
    torch.testing.assert_close(layers.VecInt(SIZES[ndim], 3)(disp), vxf.integrate_vec(disp, 3))


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_resize_of_0_2(factor: float) -> None:
    field = torch.ones(1, 3, 8, 8, 8)
    resized = layers.ResizeTransform(factor, 3)(field)
    assert resized.shape[2:] == (int(8 / factor),) * 3
    torch.testing.assert_close(resized, torch.full_like(resized, 1 / factor))


@given(dims)
def test_losses_of_0_2(ndim: int) -> None:
    a, b, disp = images(ndim)
    torch.testing.assert_close(losses.NCC().loss(a, b), -neurite.ncc(a, b)[0, 0])
    torch.testing.assert_close(losses.NCC([3] * ndim).loss(a, b), -neurite.ncc(a, b, 3)[0, 0])
    differences = [disp.detach().diff(dim=axis + 2) for axis in range(ndim)]
    squares = sum(float(difference.square().mean()) for difference in differences) / ndim
    sizes = sum(float(difference.abs().mean()) for difference in differences) / ndim
    disp = disp.detach()
    assert float(losses.Grad("l2", loss_mult=2).loss(None, disp)) == pytest.approx(2 * squares)
    assert float(losses.Grad().loss(None, disp)) == pytest.approx(sizes)
    mask = (a.detach() > 0).double()
    assert float(losses.Dice().loss(mask, mask)) == pytest.approx(-1)


# What a patch is.


def test_nothing_is_patched_by_importing() -> None:
    for name in ALL:
        for owner, attribute, original, ours in patching._library(name).replacements:
            assert getattr(owner, attribute) is original
            assert original is not ours


def test_functions_that_were_imported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("somebodys_script")
    original = vars(module)["warp"] = vxf.spatial_transform
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with l2rfast.patch("voxelmorph"):
        assert vars(module)["warp"] is vxf.spatial_transform is not original
    assert vars(module)["warp"] is vxf.spatial_transform is original


def test_nested_patches_end_with_the_first() -> None:
    original = F.grid_sample
    with l2rfast.patch("torch"):
        with l2rfast.patch("torch", "monai"):
            assert F.grid_sample is not original
        assert F.grid_sample is not original
    assert F.grid_sample is original
    l2rfast.patch("torch", "neurite")
    l2rfast.unpatch("neurite")
    assert F.grid_sample is not original
    l2rfast.unpatch()
    assert F.grid_sample is original


def test_what_cannot_be_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"names: expected some of torch, .* got 'tensorflow'"):
        l2rfast.patch("torch", "tensorflow")
    with pytest.raises(InputError, match=r"names: expected some of torch, .* got none"):
        l2rfast.patch()
    with pytest.raises(InputError, match="names: expected patched libraries, none, got 'torch'"):
        l2rfast.unpatch("torch")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.9.1")
    with pytest.raises(InputError, match=r"monai: expected a version >=1\.6,<1\.7, got 0\.9\.1"):
        patching.Library("monai", ">=1.6,<1.7")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "l2rfast.compat.neurite")
    monkeypatch.setitem(sys.modules, "neurite.nn.functional", None)
    with pytest.raises(InputError, match="names: expected libraries that are installed, but neurite is not"):
        l2rfast.patch("torch", "neurite")


def test_each_reason_is_told_once_and_counted() -> None:
    image, _, disp = images(2)
    jittered = monai.networks.blocks.Warp(jitter=True)
    name = "monai.networks.blocks.warp.Warp.forward"
    patching._fallen.pop(name, None)
    with l2rfast.patch("monai"):
        with pytest.warns(l2rfast.FallbackWarning, match=f"{name} runs the library's own code: jitter"):
            jittered(image, disp)
        jittered(image, disp)  # a second warning would be an error
    assert l2rfast.patch_report()[name].fallen == {"jitter": 2}


def test_the_librarys_own_errors() -> None:
    image, _, disp = images(2)
    with l2rfast.patch("monai"), pytest.raises(ValueError, match="the input DDF shape must be"):
        monai.networks.blocks.Warp()(image, disp[:, :1])


# Where modules go.

CLASSES = {
    "monai.Warp": lambda: compat_monai.Warp(),
    "monai.DVF2DDF": lambda: compat_monai.DVF2DDF(3),
    "monai.LocalNCC": lambda: compat_monai.LocalNormalizedCrossCorrelationLoss(kernel_size=3),
    "voxelmorph.SpatialTransformer": lambda: modules.SpatialTransformer(),
    "voxelmorph.IntegrateVelocityField": lambda: modules.IntegrateVelocityField(steps=3),
    "layers.SpatialTransformer": lambda: layers.SpatialTransformer(SIZES[3]),
    "layers.VecInt": lambda: layers.VecInt(SIZES[3], 3),
}


def arguments(name: str) -> list[Tensor]:
    a, b, disp = (one.detach().float().requires_grad_() for one in images(3))
    if name == "monai.LocalNCC":
        return [a, b]
    return [disp] if name.split(".")[1] in ("DVF2DDF", "IntegrateVelocityField", "VecInt") else [a, disp]


@pytest.mark.parametrize("name", CLASSES)
def test_modules_are_pickled_copied_and_run_in_parallel(name: str) -> None:
    module, inputs = CLASSES[name](), arguments(name)
    expected = module(*inputs)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.nn.DataParallel(module)):
        assert torch.equal(other(*inputs), expected)


@pytest.mark.parametrize("name", CLASSES)
def test_modules_under_autocast(name: str) -> None:
    module, inputs = CLASSES[name](), arguments(name)
    expected = module(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(*inputs)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert all(bool(one.grad.isfinite().all()) for one in inputs if one.grad is not None)


@pytest.mark.filterwarnings("ignore")  # of what PyTorch's compiler uses
@pytest.mark.parametrize("name", CLASSES)
def test_modules_are_compiled(name: str) -> None:
    module, inputs = CLASSES[name](), arguments(name)
    compiled = torch.compile(module, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), module(*inputs))
    compiled(*inputs).sum().backward()
    expected = [one.grad.clone() for one in inputs]
    for one in inputs:
        one.grad = None
    module(*inputs).sum().backward()
    for one, gradient in zip(inputs, expected, strict=True):
        torch.testing.assert_close(gradient, one.grad)


# Training scripts, unchanged but for the patch.


def monai_script() -> list[float]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(2, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 3, padding=1)
    )
    similarity = monai.losses.LocalNormalizedCrossCorrelationLoss(kernel_size=5)
    smoothness, warp = monai.losses.DiffusionLoss(), monai.networks.blocks.Warp()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    fixed, moving = blobs(1), blobs(2)
    curve = []
    for _ in range(6):
        disp = network(torch.cat([fixed, moving], 1))
        loss = similarity(warp(moving, disp), fixed) + smoothness(disp)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def voxelmorph_script() -> list[float]:
    torch.manual_seed(0)
    network = voxelmorph.nn.models.VxmPairwise(
        ndim=3, source_channels=1, target_channels=1, nb_features=[4, 8, 8], integration_steps=3
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    fixed, moving = (F.pad(blobs(seed), (0, 6, 0, 2, 0, 4)) for seed in (1, 2))
    curve = []
    for _ in range(4):
        disp, warped = network(moving, fixed, return_warped_source=True)
        loss = -neurite.ncc(warped, fixed)[0, 0] + disp.diff(dim=2).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


@pytest.mark.parametrize(
    ("libraries", "script"), [(["monai"], monai_script), (["voxelmorph", "neurite"], voxelmorph_script)]
)
def test_training_scripts(libraries: list[str], script: Callable[[], list[float]]) -> None:
    expected = script()
    with l2rfast.patch(*libraries):
        found = script()
    assert expected[0] != expected[-1]
    assert found == pytest.approx(expected, rel=1e-4)
