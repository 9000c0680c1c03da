"""Facts about warping several images by one field, and about warping with the image's gradient."""

from __future__ import annotations

import pytest
import torch
from operators import runnable
from samples import MODES, PADDINGS, field, noise
from torch import Tensor

import l2rfast
from l2rfast import warp, warp_many, warp_with_gradient
from l2rfast.errors import NotDifferentiableError

SIZES = [(6, 7), (4, 6, 5)]

each_backend = pytest.mark.parametrize("backend", runnable("warp_many", ("cpu",)))
each_padding = pytest.mark.parametrize("padding", PADDINGS)
each_size = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])


def all_dtypes(size: tuple[int, ...]) -> tuple[list[Tensor], list[str]]:
    """An image of every floating dtype in both modes, and labels, in different numbers of channels and layouts."""
    images, modes = [], []
    for i, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16)):
        for mode in MODES:
            images.append(noise(2, 1 + i, *size).to(dtype))
            modes.append(mode)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool):
        images.append((3 * noise(2, 2, *size)).abs().to(dtype))
        modes.append("nearest")
    images[1] = images[1].transpose(-1, -2).contiguous().transpose(-1, -2)
    images[3] = images[3].movedim(1, -1).contiguous().movedim(-1, 1)
    return images, modes


@each_backend
@each_padding
@each_size
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_values_are_those_of_separate_warps_bit_for_bit(
    backend: str, padding: str, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    images, modes = all_dtypes(size)
    disp = field(size, (5, *size[1:]), smooth=False).to(dtype)
    with l2rfast.backend(backend):
        got = warp_many(images, disp, modes=modes, padding=padding)
        expected = [warp(image, disp, mode=mode, padding=padding) for image, mode in zip(images, modes, strict=True)]
    assert isinstance(got, tuple)
    assert [g.dtype for g in got] == [image.dtype for image in images]
    assert all(map(torch.equal, got, expected))


@each_backend
def test_one_float64_image_makes_the_positions_of_all_float64(backend: str) -> None:
    size = (6, 7)
    images, disp = [noise(2, 1, *size), noise(2, 2, *size).float()], noise(2, 2, *size).float()
    with l2rfast.backend(backend):
        got = warp_many(images, disp, modes=["linear", "linear"])
        expected = [warp(images[0], disp), warp(images[1].double(), disp).float()]
    assert [g.dtype for g in got] == [torch.float64, torch.float32]
    assert all(map(torch.equal, got, expected))


@each_backend
@each_padding
@each_size
def test_gradients_are_those_of_separate_warps(backend: str, padding: str, size: tuple[int, ...]) -> None:
    modes = ["linear", "nearest", "linear"]
    inputs = [*(noise(2, c, *size).requires_grad_() for c in (1, 3, 2)), field(size, size).requires_grad_()]
    with l2rfast.backend(backend):
        together = warp_many(inputs[:-1], inputs[-1], modes=modes, padding=padding)
        apart = [warp(i, inputs[-1], mode=m, padding=padding) for i, m in zip(inputs[:-1], modes, strict=True)]
        weights = [noise(*out.shape) for out in apart]
        got, expected = (torch.autograd.grad(outs, inputs, weights) for outs in (together, apart))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_gradient_to_a_16_bit_field_is_rounded_once(backend: str, dtype: torch.dtype) -> None:
    """Images whose gradients to the field cancel: a sum of rounded ones would be mostly rounding."""
    size, tolerance = (6, 7), {torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    images = [factor * noise(2, 1, *size) for factor in (1, 100)]
    images = [image.to(dtype) for image in (images[0], images[1], -images[1])]
    disp = field(size, size).to(dtype)

    def gradient(*tensors: Tensor) -> Tensor:
        *given, disp = tensors
        outs = warp_many(given, disp.requires_grad_(), modes=["linear"] * 3)
        (by_disp,) = torch.autograd.grad(outs, disp, [torch.ones_like(out) for out in outs])
        return by_disp

    with l2rfast.backend(backend):
        got = gradient(*images, disp)
    with l2rfast.backend("reference"):
        expected = gradient(*(t.detach().double() for t in (*images, disp)))
    assert got.dtype == dtype
    assert (got - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize(("number", "modes"), [(0, []), (0, ["linear"]), (1, []), (2, ["linear"])])
def test_a_mode_for_each_image(number: int, modes: list[str]) -> None:
    with pytest.raises(l2rfast.InputError, match=r"^images, modes: expected one mode per image"):
        warp_many([noise(1, 1, 5, 4)] * number, field((5, 4), (5, 4)), modes=modes)


@each_backend
@each_padding
@each_size
def test_the_gradient_is_that_of_autograd(backend: str, padding: str, size: tuple[int, ...]) -> None:
    image, disp = noise(2, 3, *size), field(size, (5, *size[1:]), smooth=False).requires_grad_()
    with l2rfast.backend(backend):
        value, gradient = warp_with_gradient(image, disp.detach(), padding=padding)
        out = warp(image, disp, padding=padding)
        by_channel = [torch.autograd.grad(out[:, c].sum(), disp, retain_graph=True)[0] for c in range(3)]
    assert torch.equal(value, out)
    torch.testing.assert_close(gradient, torch.stack(by_channel, 1), rtol=1e-12, atol=1e-12)


@each_backend
@each_padding
@each_size
def test_the_gradient_is_that_of_differences(backend: str, padding: str, size: tuple[int, ...]) -> None:
    """The samples are linear along each axis between grid points: any difference there is exact."""
    image, disp, step = noise(2, 3, *size), field(size, size), 2.0**-5
    with l2rfast.backend(backend):
        _, gradient = warp_with_gradient(image, disp, padding=padding)
        for k in range(len(size)):
            move = torch.zeros_like(disp)
            move[:, k] = step
            ahead, behind = (warp(image, disp + sign * move, padding=padding) for sign in (1, -1))
            torch.testing.assert_close(gradient[:, :, k], (ahead - behind) / (2 * step), rtol=1e-11, atol=1e-11)


def test_the_gradient_has_no_derivative() -> None:
    value, _ = warp_with_gradient(noise(1, 1, 5, 4).requires_grad_(), noise(1, 2, 5, 4))
    with pytest.raises(NotDifferentiableError, match="warp_with_gradient: has no derivative"):
        value.sum().backward()
