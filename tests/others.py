"""Other libraries, and what the tests of our layers in their places have in common."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

import l2rfast

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

__all__ = [
    "MARKS",
    "SIZES",
    "alike",
    "blobs",
    "compare",
    "convexadam",
    "dims",
    "fireants_losses",
    "fireants_samplers",
    "images",
    "monai",
    "neurite",
    "paddings",
    "steps",
    "voxelmorph",
    "vxf",
    "with_gradients",
]
MARKS = [
    pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp"),  # which says that it samples by PyTorch
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence"),  # in MONAI's differences
]
SIZES = {2: (9, 8), 3: (7, 6, 8)}


def images(ndim: int, batch: int = 2, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Two images and a field of some voxels, float64, that require gradients."""
    drawn = torch.Generator().manual_seed(ndim)
    shapes = [(batch, channels, *SIZES[ndim])] * 2 + [(batch, ndim, *SIZES[ndim])]
    a, b, disp = (torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in shapes)
    return a.requires_grad_(), b.requires_grad_(), (2 * disp).requires_grad_()


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """A value, and the gradients of its weighted sum."""
    value = function(*inputs)
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape) + 2
    asked = [one for one in inputs if one.requires_grad]
    return [value, *torch.autograd.grad((value * weights).sum(), asked)]


def compare(
    library: str, function: Callable[..., Tensor], *inputs: Tensor, replaced: bool = True, tolerance: float = 1e-7
) -> None:
    """The value and gradients of a call are those without the patch; and the patch took it, or did not."""
    expected = with_gradients(function, *inputs)
    before = sum(calls.replaced for calls in l2rfast.patch_report().values())
    with l2rfast.patch(library), warnings.catch_warnings():
        warnings.simplefilter("ignore" if not replaced else "error", l2rfast.FallbackWarning)
        found = with_gradients(function, *inputs)
    after = sum(calls.replaced for calls in l2rfast.patch_report().values())
    assert (after > before) == replaced
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def alike(found: Callable[..., Tensor], expected: Callable[..., Tensor], *inputs: Tensor) -> None:
    """In value and gradients, of float32."""
    inputs = tuple(one.detach().float().requires_grad_() for one in inputs)
    for ours, theirs in zip(*(with_gradients(function, *inputs) for function in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def blobs(seed: int) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(1, 1, 6, 6, 6, generator=drawn), (36, 30, 42), mode="trilinear")


dims = st.sampled_from([2, 3])
paddings = st.sampled_from(["zeros", "border", "reflection"])
