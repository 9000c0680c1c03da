"""Lanczos-windowed sinc interpolation: against SimpleITK."""

from __future__ import annotations

import pytest
import torch
from operators import runnable
from samples import noise

import l2rfast

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")

each_backend = pytest.mark.parametrize("backend", runnable("sinc", ("cpu",)))
OUTSIDE = -1000.0


@each_backend
@pytest.mark.parametrize("size", [(13, 9), (9, 12, 14), (4, 3, 30)])
def test_samples_are_those_of_simpleitk(size: tuple[int, ...], backend: str) -> None:
    """Wherever it takes any: within half a voxel of the image."""
    image, disp = noise(1, 1, *size), 3 * noise(1, len(size), *size)
    disp[:, :, 0] = 0  # on the grid
    disp[:, 1:, :, 0] = torch.round(disp[:, 1:, :, 0])
    source = sitk.GetImageFromArray(image[0, 0].numpy())
    vectors = sitk.GetImageFromArray(disp[0].flip(0).movedim(0, -1).contiguous().numpy(), isVector=True)
    transform = sitk.DisplacementFieldTransform(vectors)
    result = sitk.Resample(source, source, transform, sitk.sitkLanczosWindowedSinc, OUTSIDE, sitk.sitkFloat64)
    expected = torch.from_numpy(sitk.GetArrayFromImage(result))
    known = expected != OUTSIDE
    assert 0.2 < known.double().mean() < 0.9
    with l2rfast.backend(backend):
        for dtype, atol in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
            got = l2rfast.warp(image.to(dtype), disp.to(dtype), mode="sinc")[0, 0]
            torch.testing.assert_close(got[known].double(), expected[known], rtol=0, atol=atol)


@each_backend
def test_voxels_themselves_are_kept_whatever_is_beside_them(backend: str) -> None:
    image = noise(1, 2, 12, 5, 11)
    image[0, 0, 3, 2, 4] = torch.nan
    with l2rfast.backend(backend):
        same = l2rfast.warp(image, torch.zeros(1, 3, 12, 5, 11), mode="sinc")
    assert torch.equal(same.isnan(), image.isnan())
    assert torch.equal(same.nan_to_num(), image.nan_to_num())


@each_backend
def test_paddings_are_images_that_go_on(backend: str) -> None:
    image, disp = noise(1, 1, 6, 11), 4 * noise(1, 2, 6, 11)
    modes = {"border": "replicate", "reflection": "reflect", "zeros": "constant"}
    for padding, mode in modes.items():
        wide = image
        for _ in range(4):  # by one voxel less than there are: reflections then follow one another
            wide = torch.nn.functional.pad(wide, (10, 10, 5, 5), mode=mode)
        further = torch.nn.functional.pad(disp, (40, 40, 20, 20))
        expected = l2rfast.warp(wide, further, mode="sinc")[..., 20:-20, 40:-40]
        with l2rfast.backend(backend):
            got = l2rfast.warp(image, disp, mode="sinc", padding=padding)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_there_is_no_derivative() -> None:
    disp = torch.zeros(1, 2, 3, 4, requires_grad=True)
    with pytest.raises(l2rfast.errors.NotDifferentiableError, match="sinc: has no derivative"):
        l2rfast.warp(torch.ones(1, 1, 3, 4), disp, mode="sinc").sum().backward()


def test_labels_are_refused() -> None:
    with pytest.raises(l2rfast.InputError, match="image: expected a floating-point dtype"):
        l2rfast.warp(torch.ones(1, 1, 3, 4, dtype=torch.uint8), torch.zeros(1, 2, 3, 4), mode="sinc")
