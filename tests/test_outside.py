"""What lies beyond an image, as ITK has it: nothing up to half a voxel beyond its voxels, then one value."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

import l2rfast
from l2rfast.resampling import Resampler
from l2rfast.world import Affine, Grid

SIZE, OUT = (7, 6, 5), (9, 8, 10)
# No place is just half a voxel from another: sums of these round differently.
MATRIX = torch.tensor(
    [[0.9013, 0.1127, -0.0731, -0.8341], [-0.1319, 1.0537, 0.0613, -1.2127], [0.0811, -0.0523, 0.8573, -1.5739]]
)


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def by_itk(image: np.ndarray, places: np.ndarray, mode: int, outside: float) -> np.ndarray:
    """(*OUT) at (3, *OUT) in voxels; ITK's axes are the other way round."""
    vectors = (places - np.indices(OUT))[::-1].transpose(1, 2, 3, 0)
    field = sitk.GetImageFromArray(np.ascontiguousarray(vectors, np.float64), isVector=True)
    grid = sitk.Image(list(reversed(OUT)), sitk.sitkUInt8)
    found = sitk.Resample(sitk.GetImageFromArray(image), grid, sitk.DisplacementFieldTransform(field), mode, outside)
    values: np.ndarray = sitk.GetArrayFromImage(found)
    return values


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("displaced", [True, False])
@pytest.mark.parametrize(
    ("mode", "theirs", "dtype"),
    [
        ("linear", sitk.sitkLinear, torch.float32),
        ("linear", sitk.sitkLinear, torch.float64),
        ("nearest", sitk.sitkNearestNeighbor, torch.float32),
        ("nearest", sitk.sitkNearestNeighbor, torch.int16),
        ("nearest", sitk.sitkNearestNeighbor, torch.uint16),
        ("sinc", sitk.sitkLanczosWindowedSinc, torch.float64),
        ("vote", sitk.sitkLabelLinear, torch.int32),
    ],
)
def test_one_value_beyond_an_image(mode: str, theirs: int, dtype: torch.dtype, displaced: bool, backend: str) -> None:
    image = (50 + 9 * seeded(*SIZE)).to(dtype)
    disp = 0.7 * seeded(1, 3, *OUT) if displaced else None
    places = torch.from_numpy(np.indices(OUT)) + (0.0 if disp is None else disp[0])
    positions = torch.einsum("ij,j...->i...", MATRIX[:, :3].double(), places.double()) + MATRIX[:, 3:, None, None]
    with l2rfast.backend(backend):
        found = l2rfast.affine_warp(image[None, None], MATRIX[None], OUT, disp=disp, mode=mode, outside=11)
    assert found.dtype == dtype
    expected = by_itk(image.numpy(), positions.numpy(), theirs, 11)
    assert 0.1 < (expected == 11).mean() < 0.9
    np.testing.assert_array_equal(found[0, 0].numpy() == 11, expected == 11)
    np.testing.assert_allclose(found[0, 0].numpy().astype(float), expected.astype(float), atol=2e-3)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_nowhere_is_beyond_and_what_is_not_finite_stays_within(mode: str, backend: str) -> None:
    image = torch.full((1, 1, 4, 4), torch.inf)
    disp = torch.zeros(1, 2, 4, 4)
    disp[0, 0, 0, 0], disp[0, 1, 1, 1], disp[0, 0, 2, 2], disp[0, 0, 3, 3] = torch.nan, torch.inf, 9, 0.25
    with l2rfast.backend(backend):
        found = l2rfast.affine_warp(image, torch.eye(2, 3)[None], disp=disp, mode=mode, outside=-1)[0, 0]
    assert [found[i, i].item() for i in range(3)] == [-1, -1, -1]
    assert (found[~torch.eye(4, dtype=torch.bool)] != -1).all()


def test_no_derivative_through_a_value_outside() -> None:
    image = torch.ones(1, 1, 4, 4, requires_grad=True)
    with pytest.raises(l2rfast.errors.NotDifferentiableError, match="affine_resample"):
        l2rfast.affine_warp(image, torch.eye(2, 3)[None], outside=0).sum().backward()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.uint8, 256),
        (torch.int16, 0.5),
        (torch.int16, 10**30),
        (torch.int16, math.nan),
        (torch.float16, 70000.0),
        (torch.float32, 1e39),
    ],
)
def test_a_value_that_the_image_does_not_hold(dtype: torch.dtype, value: float) -> None:
    image = torch.zeros(1, 1, 3, 3, dtype=dtype)
    said = re.escape(f"outside: expected a number that {dtype} holds, got {value}")
    with pytest.raises(l2rfast.InputError, match=said):
        l2rfast.affine_warp(image, torch.eye(2, 3)[None], mode="nearest", outside=value)


@pytest.mark.parametrize("value", [0.1, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_values_are_rounded_to_the_dtype(dtype: torch.dtype, value: float) -> None:
    found = l2rfast.affine_warp(torch.zeros(1, 1, 3, 3, dtype=dtype), torch.eye(2, 3)[None] + 9, outside=value)
    torch.testing.assert_close(found, torch.full_like(found, value), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(("shift", "reaches"), [(0.0, True), (-16.4, True), (16.4, True), (16.6, False)])
def test_whether_anything_is_reached(shift: float, reaches: bool) -> None:
    """Also of what only one voxel of many reaches."""
    grid, moved = Grid((17, 9, 9), np.eye(4)), np.eye(4)
    moved[0, 3] = shift
    assert Resampler(Affine(moved), grid, grid).reaches is reaches
