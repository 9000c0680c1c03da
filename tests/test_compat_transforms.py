"""Transforms of other libraries as ours, and back: places go where theirs take them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from l2rfast import InputError
from l2rfast.compat.transforms import (
    from_antspyx,
    from_nitransforms,
    from_simpleitk,
    to_antspyx,
    to_nitransforms,
    to_simpleitk,
)
from l2rfast.world import Affine, Displacement, Grid, Transform, compose

LPS = np.diag([-1.0, -1.0, 1.0])


def grid() -> Grid:
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = q * (1.0, 1.3, -0.8), (-10, 20, 5)
    return Grid((5, 6, 7), affine)


def ours() -> dict[str, Transform]:
    matrix = np.eye(4)
    matrix[:3] = [[1.1, 0.1, 0, 1.5], [-0.2, 0.9, 0.05, 2], [0.02, 0, 1.2, -4]]
    disp = torch.randn(1, 3, *grid().shape, generator=torch.Generator().manual_seed(0))
    field, affine = Displacement(disp, grid().affine), Affine(matrix)
    return {"affine": affine, "field": field, "chain": compose(field, affine)}


def places() -> np.ndarray:
    """Voxels that are not at the border."""
    affine = grid().affine
    return (np.argwhere(np.ones((3, 4, 5)))[::7] + 1) @ affine[:3, :3].T + affine[:3, 3]


def taken(transform: Transform) -> np.ndarray:
    return transform(torch.from_numpy(places())).numpy()


def taken_by_itk(point: Any) -> np.ndarray:
    return np.array([point(place.tolist()) for place in places() @ LPS]) @ LPS


@pytest.mark.parametrize("kind", ours())
def test_simpleitk(kind: str) -> None:
    theirs = to_simpleitk(ours()[kind])
    assert isinstance(theirs, sitk.Transform)
    np.testing.assert_allclose(taken_by_itk(theirs.TransformPoint), taken(ours()[kind]), atol=1e-5)
    np.testing.assert_allclose(taken(from_simpleitk(theirs)), taken(ours()[kind]), atol=1e-5)


def test_simpleitk_has_chains_of_chains_and_none() -> None:
    euler, step = sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (3, 2, 1)), sitk.TranslationTransform(3, (5, 6, 7))
    field = to_simpleitk(ours()["field"])
    theirs = sitk.CompositeTransform([step, sitk.CompositeTransform([euler, field])])
    np.testing.assert_allclose(taken(from_simpleitk(theirs)), taken_by_itk(theirs.TransformPoint), atol=1e-5)
    np.testing.assert_array_equal(from_simpleitk(sitk.CompositeTransform(3)).matrix, np.eye(4))
    np.testing.assert_array_equal(from_simpleitk(sitk.Transform()).matrix, np.eye(4))


def test_simpleitk_of_two_axes() -> None:
    disp = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    field = Displacement(disp, np.diag([-1.5, 2, 1, 1]))
    theirs = to_simpleitk(field, ndim=2)
    place = np.array([-3.0, 4.0])
    there = np.array(theirs.TransformPoint((-place).tolist()))
    found = field(torch.tensor([[*place, 0]], dtype=torch.float64))[0]
    np.testing.assert_allclose(-there, found[:2], atol=1e-5)
    np.testing.assert_allclose(
        from_simpleitk(theirs)(torch.tensor([[*place, 0]], dtype=torch.float64))[0], found, atol=1e-5
    )


def test_simpleitks_bsplines() -> None:
    image = sitk.Image(9, 8, 7, sitk.sitkUInt8)
    theirs = sitk.BSplineTransformInitializer(image, [2, 3, 2])
    theirs.SetParameters(np.random.default_rng(0).normal(scale=3, size=len(theirs.GetParameters())))
    found = from_simpleitk(theirs, Grid((9, 8, 7), np.diag([-1.0, -1, 1, 1])))
    place = np.array([3.0, 4, 5])
    reached = LPS @ theirs.TransformPoint(place.tolist())
    np.testing.assert_allclose(found(torch.from_numpy(LPS @ place)[None])[0], reached, atol=1e-5)
    with pytest.raises(InputError, match="fixed: expected the fixed image"):
        from_simpleitk(theirs)


if find_spec("ants"):  # its version of NumPy is older than the tests'

    @pytest.mark.parametrize("kind", ours())
    def test_antspyx(kind: str) -> None:
        theirs = to_antspyx(ours()[kind])
        np.testing.assert_allclose(taken_by_itk(theirs.apply_to_point), taken(ours()[kind]), atol=1e-4)
        np.testing.assert_allclose(taken(from_antspyx(theirs)), taken(ours()[kind]), atol=1e-4)


@pytest.mark.parametrize("kind", ours())
def test_nitransforms(kind: str) -> None:
    theirs = to_nitransforms(ours()[kind])
    np.testing.assert_allclose(theirs.map(places()), taken(ours()[kind]), atol=1e-4)
    np.testing.assert_allclose(taken(from_nitransforms(theirs)), taken(ours()[kind]), atol=1e-4)


def test_a_series_of_nitransforms_is_refused() -> None:
    from nitransforms import linear

    with pytest.raises(InputError, match="got 3 linear of matrix"):
        from_nitransforms(linear.LinearTransformsMapping([np.eye(4)] * 3))


@pytest.mark.parametrize("take", [from_simpleitk, from_nitransforms])
def test_what_is_none_is_said(take: Any) -> None:
    with pytest.raises(InputError, match=r"transform: expected .*, got int"):
        take(3)


def test_kinds_that_are_not_known_are_said() -> None:
    class Kernel:
        def Downcast(self) -> Kernel:
            return self

        def GetName(self) -> str:
            return "ThinPlateSplineKernelTransform"

        def GetDimension(self) -> int:
            return 3

        def GetParameters(self) -> list[float]:
            return []

        GetFixedParameters = GetParameters

    with pytest.raises(InputError, match="got a ThinPlateSplineKernelTransform_double_3_3"):
        from_simpleitk(Kernel())
