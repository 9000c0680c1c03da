"""Layers of libraries that cannot be imported here, which need no patch: VoxelMorph 0.2 and DeepReg."""

from __future__ import annotations

import importlib.util
import types
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from others import SIZES, alike, dims, images
from torch import Tensor

from l2rfast.compat import deepreg
from l2rfast.compat.voxelmorph import layers, losses
from l2rfast.errors import InputError

# VoxelMorph 0.2, whose package Python 3.11 cannot import, but whose layers it can.


def published(name: str) -> types.ModuleType:
    file = (
        Path(__file__).parent.parent / "build" / "libraries" / "voxelmorph-0.2" / "voxelmorph" / "torch" / f"{name}.py"
    )
    spec = importlib.util.spec_from_file_location(f"voxelmorph_0_2_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@given(dims, st.sampled_from(["bilinear", "nearest"]), st.integers(0, 4))
def test_layers_of_0_2(ndim: int, mode: str, count: int) -> None:
    image, _, disp = images(ndim, channels=2)
    theirs, size = published("layers"), SIZES[ndim]
    layer, original = layers.SpatialTransformer(size, mode), theirs.SpatialTransformer(size, mode)
    layer.load_state_dict(original.state_dict())
    alike(layer, original, image, disp)
    alike(layers.VecInt(size, count), theirs.VecInt(size, count), disp)


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_resize_of_0_2(factor: float) -> None:
    for ndim in (2, 3):
        field = torch.randn(1, ndim, *[8] * ndim)
        alike(layers.ResizeTransform(factor, ndim), published("layers").ResizeTransform(factor, ndim), field)


@given(st.sampled_from([None, 3, 5]), st.sampled_from(["l1", "l2"]), st.sampled_from([None, 2.0]))
def test_losses_of_0_2(window: int | None, penalty: str, factor: float | None) -> None:
    a, b, disp = images(3)
    theirs = published("losses")
    win = [window] * 3 if window else None

    @mock.patch.object(Tensor, "to", lambda tensor, device: tensor)  # it computes on a GPU only
    def expected(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = theirs.NCC(win).loss(a, b)
        return result

    alike(losses.NCC(win).loss, expected, a, b)
    energies = [of.Grad(penalty, loss_mult=factor) for of in (losses, theirs)]
    alike(*(partial(energy.loss, None) for energy in energies), disp)
    masks = [(one > 0).double() for one in (a, b)]
    alike(losses.Dice().loss, theirs.Dice().loss, *masks)


def test_losses_of_0_2_in_2d() -> None:
    disp = images(2)[2].detach()
    squares = sum(float(disp.diff(dim=axis).square().mean()) for axis in (2, 3)) / 2
    assert float(losses.Grad("l2").loss(None, disp)) == pytest.approx(squares)


# DeepReg's local NCC, which is for TensorFlow: as its public code has it, in float64.


def deepreg_kernel(side: int, kind: str) -> Tensor:
    if kind == "rectangular":
        return torch.ones(side).double()
    if kind == "gaussian":
        return torch.exp(-((torch.arange(side) - (side - 1) / 2).double() ** 2) / (2 * (side / 3) ** 2))
    half = (side + 1) // 2
    return torch.tensor([half - abs(k - side // 2) for k in range(side)]).double()


@given(st.sampled_from([3, 5, 7]), st.sampled_from(["rectangular", "triangular", "gaussian"]), st.booleans())
def test_deepreg(side: int, kind: str, channels: bool) -> None:
    one = deepreg_kernel(side, kind)
    kernel = one[:, None, None] * one[:, None] * one

    def expected(true: Tensor, predicted: Tensor) -> Tensor:
        def total(x: Tensor) -> Tensor:
            return F.conv3d(x, kernel[None, None], padding=side // 2)

        t, p = (x.view(-1, 1, *SIZES[3]) for x in (true, predicted))
        mean_t, mean_p = (total(x) / kernel.sum() for x in (t, p))
        cross = total(t * p) - mean_p * total(t)
        variances = [(total(x * x) - mean * total(x)).clamp(min=0) for x, mean in ((t, mean_t), (p, mean_p))]
        return ((cross**2 + 1e-5) / (variances[0] * variances[1] + 1e-5)).flatten(1).mean(1)

    a, b = (one.reshape(2, *SIZES[3], *[1] * channels) for one in images(3)[:2])
    torch.testing.assert_close(deepreg.LocalNormalizedCrossCorrelation(side, kind).call(a, b), expected(a, b))
    for reduction, reduced in (("none", lambda x: x), ("mean", torch.mean), ("sum", torch.sum)):
        loss = deepreg.LocalNormalizedCrossCorrelationLoss(side, kind, reduction=reduction)
        torch.testing.assert_close(loss(a, b), -reduced(expected(a, b)))


def test_what_deepreg_refuses() -> None:
    with pytest.raises(InputError, match="kernel_type: expected one of rectangular"):
        deepreg.LocalNormalizedCrossCorrelation(kernel_type="box")
    with pytest.raises(InputError, match="reduction: expected one of mean"):
        deepreg.LocalNormalizedCrossCorrelation(reduction="auto")
    image = torch.ones(1, 8, 8, 8, 2)
    with pytest.raises(InputError, match=r"y_true: expected shape \(N, D, H, W\)"):
        deepreg.LocalNormalizedCrossCorrelation()(image, image)
