"""greedy's affine maps. golden/greedy is of picsl_greedy 1.4.0.3, ``-r affine.mat -ri LINEAR``, moving to fixed."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from grids import oblique
from scipy.ndimage import gaussian_filter

from l2rfast import InputError, read_transform, write_transform
from l2rfast.world import Affine, Displacement, Grid
from l2rfast.world.maps import Map

GOLDEN = Path(__file__).parent / "golden/greedy"


FIXED = Grid((10, 12, 14), oblique((2, 2.6, 1.6), (-10, 20, 5), False))
MOVING = Grid((13, 11, 9), oblique((1.8, 2, 2.9), (-6, 3, 3), True))


def moving() -> np.ndarray:
    values = 100 * gaussian_filter(np.random.default_rng(9).standard_normal(MOVING.shape), 1.5)
    return values.astype(np.float32)


def assert_resliced(theirs: np.ndarray, transform: Affine) -> None:
    """Where all of moving's voxels around a place are there: elsewhere greedy fades to 0."""
    map = transform.carried(Map.of(FIXED))
    ours = map.sampled(torch.from_numpy(moving())[None, None], MOVING.affine)[0, 0].numpy()
    last = np.array(MOVING.size) - 1
    voxels = np.argwhere(np.ones(FIXED.shape)) @ map.frame[:3, :3].T + map.frame[:3, 3]
    inside = Grid(MOVING.shape, np.linalg.inv(MOVING.affine)).affine
    places = voxels @ inside[:3, :3].T + inside[:3, 3]
    there = ((places > 0) & (places < last)).all(1).reshape(FIXED.shape)
    assert there.mean() > 0.3
    np.testing.assert_allclose(ours[there], theirs[there], atol=1e-4)


def test_an_image_goes_where_greedy_takes_it() -> None:
    found = read_transform(GOLDEN / "affine.mat", format="greedy")
    assert isinstance(found, Affine)
    assert_resliced(np.load(GOLDEN / "resliced.npz")["arr_0"], found)


def test_greedy_takes_an_image_where_ours_goes(tmp_path: Path) -> None:
    import picsl_greedy as greedy

    ours = read_transform(GOLDEN / "affine.mat", format="greedy")
    write_transform(tmp_path / "a.mat", ours, format="greedy")
    nib.save(nib.Nifti1Image(moving(), MOVING.affine), tmp_path / "moving.nii")
    nib.save(nib.Nifti1Image(np.zeros(FIXED.shape, np.float32), FIXED.affine), tmp_path / "fixed.nii")
    names = {name: tmp_path / f"{name}.nii" for name in ("fixed", "moving", "out")}
    greedy.Greedy3D().execute(
        f"-threads 1 -rf {names['fixed']} -rm {names['moving']} {names['out']} -ri LINEAR -r {tmp_path / 'a.mat'}"
    )
    assert isinstance(ours, Affine)
    assert_resliced(np.asarray(nib.load(names["out"]).dataobj), ours)


def test_there_and_back(tmp_path: Path) -> None:
    ours = read_transform(GOLDEN / "affine.mat", format="greedy")
    write_transform(tmp_path / "a.mat", ours, format="greedy")
    np.testing.assert_array_equal(read_transform(tmp_path / "a.mat", format="greedy").matrix, ours.matrix)


@pytest.mark.parametrize(
    "content", ["", "1 0 0 0\n0 1 0 0\n0 0 1 0\n", "1 0\n0 1\n", "1 0 0 0 1\n" * 4, "a b c d\n" * 4, "\0" * 40]
)
def test_what_is_none_is_said(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_text(content)
    with pytest.raises(InputError, match=r"a.mat.: expected an affine map of greedy.*, got no four rows"):
        read_transform(tmp_path / "a.mat", format="greedy")
    (tmp_path / "b.mat").write_text("1 0 0 nan\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.raises(InputError, match=r"b.mat.: .*finite"):
        read_transform(tmp_path / "b.mat", format="greedy")


def test_it_holds_no_field(tmp_path: Path) -> None:
    field = Displacement(torch.zeros(1, 3, 4, 4, 4), np.eye(4))
    with pytest.raises(InputError, match=r"a linear map, as greedy's .mat holds no other"):
        write_transform(tmp_path / "a.mat", field, format="greedy")


def slices() -> tuple[sitk.Image, sitk.Image]:
    """Fixed and moving, which lie askew in their plane."""
    values = 100 * gaussian_filter(np.random.default_rng(4).standard_normal((22, 26)), 2.5)
    fixed, moving = sitk.GetImageFromArray(np.zeros((18, 20), np.float32)), sitk.GetImageFromArray(values)
    for image, spacing, origin, angle in ((fixed, (1.5, 1.2), (3, -4), 0.3), (moving, (1.1, 1.4), (-2, 5), -0.2)):
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)])
    return fixed, sitk.Cast(moving, sitk.sitkFloat32)


PLANE = "0.9 0.2 1.5\n-0.1 1.05 -7\n0 0 1\n"


@pytest.mark.parametrize("ours", [False, True])
def test_of_two_axes_it_has_three_rows(ours: bool, tmp_path: Path) -> None:
    """Greedy resamples by a file, as it stands or as we write it again; SimpleITK by what we read of it."""
    import picsl_greedy as greedy

    (tmp_path / "a.mat").write_text(PLANE)
    found = read_transform(tmp_path / "a.mat")  # nothing else has three rows
    write_transform(tmp_path / "b.mat", found, format="greedy")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "b.mat"), np.loadtxt(tmp_path / "a.mat"))
    write_transform(tmp_path / "a.txt", found)
    images = dict(zip(("fixed", "moving"), slices(), strict=True))
    for name, image in images.items():
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii"))
    files = [str(tmp_path / f"{name}.nii") for name in ("fixed", "moving", "out")]
    matrix = tmp_path / ("b.mat" if ours else "a.mat")
    greedy.Greedy2D().execute(
        f"-threads 1 -rf {files[0]} -rm {files[1]} {files[2]} -ri LINEAR -r {matrix}", out=io.StringIO()
    )
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(files[2]))
    transform = sitk.ReadTransform(str(tmp_path / "a.txt"))
    assert transform.GetDimension() == 2
    here = sitk.GetArrayFromImage(sitk.Resample(images["moving"], images["fixed"], transform, sitk.sitkLinear, 999.0))
    within = sitk.GetImageFromArray(np.pad(np.ones((20, 24)), 1))
    within.CopyInformation(images["moving"])
    within = sitk.Resample(within, images["fixed"], transform, sitk.sitkLinear, 0.0)
    inner = sitk.GetArrayFromImage(within) > 0.99  # elsewhere greedy fades to 0
    assert inner.mean() > 0.3
    np.testing.assert_allclose(theirs[inner], here[inner], atol=1e-3)
