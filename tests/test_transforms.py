"""Transform files: what SimpleITK writes is read as it means it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.io import savemat

from l2rfast import InputError
from l2rfast.io import read_transform, write_displacement
from l2rfast.world import Displacement

LPS = np.diag([-1.0, -1.0, 1.0])
CENTRE, SHIFT = (3.0, -5.0, 7.0), (1.5, 20.0, -4.0)


def kinds() -> dict[str, sitk.Transform]:
    versor = sitk.VersorTransform((1, 2, -1), 0.4).GetVersor()
    affine = sitk.AffineTransform([1.1, 0.1, 0, -0.2, 0.9, 0.05, 0.02, 0, 1.2], SHIFT, CENTRE)
    euler = sitk.Euler3DTransform(CENTRE, 0.3, -0.2, 0.5, SHIFT)
    zyx = sitk.Euler3DTransform(CENTRE, 0.3, -0.2, 0.5, SHIFT)
    zyx.SetComputeZYX(True)
    return {
        "affine": affine,
        "euler": euler,
        "zyx": zyx,
        "versor": sitk.VersorRigid3DTransform(versor, SHIFT, CENTRE),
        "similarity": sitk.Similarity3DTransform(1.2, versor, SHIFT, CENTRE),
        "translation": sitk.TranslationTransform(3, SHIFT),
        "identity": sitk.Transform(3, sitk.sitkIdentity),
        "affine 2": sitk.AffineTransform([1.1, 0.1, -0.2, 0.9], SHIFT[:2], CENTRE[:2]),
        "euler 2": sitk.Euler2DTransform(CENTRE[:2], 0.3, SHIFT[:2]),
        "similarity 2": sitk.Similarity2DTransform(1.2, 0.3, SHIFT[:2], CENTRE[:2]),
    }


@pytest.mark.parametrize("suffix", ["txt", "tfm", "mat", "h5"])
@pytest.mark.parametrize("kind", kinds())
def test_linear_ones_take_places_where_itk_does(kind: str, suffix: str, tmp_path: Path) -> None:
    theirs, file = kinds()[kind], tmp_path / f"a.{suffix}"
    sitk.WriteTransform(theirs, str(file))
    ours, ndim = read_transform(file).matrix, theirs.GetDimension()
    assert ours is not None
    for place in np.random.default_rng(0).normal(scale=50, size=(5, 3)):
        place[ndim:] = 0
        reached = LPS @ np.append(theirs.TransformPoint((LPS @ place)[:ndim]), place[ndim:])
        np.testing.assert_allclose((ours @ [*place, 1])[:3], reached, atol=1e-5)


def test_the_files_of_ants(tmp_path: Path) -> None:
    """Single precision in MATLAB's level 4; the centre under its own name."""
    theirs = kinds()["affine"]
    numbers = {
        "AffineTransform_float_3_3": np.array(theirs.GetParameters(), np.float32)[:, None],
        "fixed": np.array(CENTRE, np.float32)[:, None],
    }
    savemat(tmp_path / "0GenericAffine.mat", numbers, format="4")
    ours = read_transform(tmp_path / "0GenericAffine.mat").matrix
    assert ours is not None
    place = np.array([10.0, 20.0, 30.0])
    reached = LPS @ theirs.TransformPoint(LPS @ place)
    np.testing.assert_allclose((ours @ [*place, 1])[:3], reached, atol=1e-4)


def oblique() -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = q * (1.0, 1.3, 0.8), (-10, 20, 5)
    return affine


def test_a_field_in_hdf5_and_in_nifti(tmp_path: Path) -> None:
    disp = torch.randn(1, 3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    write_displacement(tmp_path / "a.nii.gz", disp, oblique())
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    field = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    sitk.WriteTransform(field, str(tmp_path / "a.h5"))
    for name in ("a.nii.gz", "a.h5"):
        found = read_transform(tmp_path / name)
        assert isinstance(found, Displacement)
        np.testing.assert_allclose(found.affine, oblique(), atol=1e-5)
        np.testing.assert_allclose(found.disp, disp, atol=1e-5)


@pytest.mark.parametrize("suffix", ["txt", "h5"])
def test_of_several_a_point_goes_through_the_last_first(suffix: str, tmp_path: Path) -> None:
    several = sitk.CompositeTransform([kinds()["affine"], kinds()["euler"], kinds()["versor"]])
    sitk.WriteTransform(several, str(tmp_path / f"three.{suffix}"))
    ours = read_transform(tmp_path / f"three.{suffix}").matrix
    assert ours is not None
    place = np.array([10.0, 20.0, 30.0])
    np.testing.assert_allclose((ours @ [*place, 1])[:3], LPS @ several.TransformPoint(LPS @ place), atol=1e-9)


def test_what_cannot_be_one_is_said(tmp_path: Path) -> None:
    bspline = sitk.BSplineTransformInitializer(sitk.Image(8, 8, 8, sitk.sitkUInt8), [2, 2, 2])
    sitk.WriteTransform(bspline, str(tmp_path / "spline.tfm"))
    with pytest.raises(InputError, match="expected a transform of ITK, ANTs or SimpleITK, got a BSplineTransform"):
        read_transform(tmp_path / "spline.tfm")
    flirt = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    (tmp_path / "other.h5").write_text(flirt)
    with pytest.raises(InputError, match=r"other.h5.: expected a transform of one of the formats itk"):
        read_transform(tmp_path / "other.h5")
    (tmp_path / "short.tfm").write_text(short())
    with pytest.raises(InputError, match=r"short.tfm.: expected a transform of ITK, ANTs or SimpleITK, got"):
        read_transform(tmp_path / "short.tfm")
    with pytest.raises(InputError, match="there is no such file"):
        read_transform(tmp_path / "absent.tfm")
    with pytest.raises(InputError, match="initial: expected a path, got 3"):
        read_transform(3, name="initial")  # type: ignore[arg-type]


def short() -> str:
    return (
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\nParameters: 1 2\nFixedParameters: 0 0 0\n"
    )
