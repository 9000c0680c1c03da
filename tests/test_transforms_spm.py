"""SPM's deformations: places in millimetres at voxels, by the sources of SPM12 (spm_preproc_write8, spm_deformations).

SPM cannot be run here. What its Deformations utility does with a field is `scipy.ndimage.map_coordinates` at
``inv(moving.mat) * y``, and `write_as_spm` writes the header that its sources set.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from grids import oblique
from nibabel.affines import apply_affine

from l2rfast import InputError
from l2rfast.errors import InputWarning
from l2rfast.io import read_displacement, read_transform, write_transform
from l2rfast.world import Affine, Displacement, Grid, compose

FIXED = Grid((8, 7, 6), oblique((2.0, 2.5, 3.0), (10, -20, 5), True, 1))


def voxels() -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, FIXED.size), indexing="ij"), -1)


def smooth() -> np.ndarray:
    """(8, 7, 6, 3) in mm."""
    i, j, k = np.moveaxis(voxels() / 3.0, -1, 0)
    return np.stack([3 * np.sin(i + j), 2 * np.cos(j - k), 4 * np.sin(k)], -1)


def write_as_spm(path: Path, places: np.ndarray, intent: bool, descrip: bytes) -> Path:
    image = nib.Nifti1Image(places[..., None, :].astype(np.float32), None)
    image.header.set_sform(FIXED.affine, code=2)
    image.header.set_qform(FIXED.affine, code=2)
    image.header["descrip"] = descrip
    if intent:
        image.header.set_intent("vector", name="Mapping")
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("intent", "descrip"),
    [(True, b"Deformation field"), (False, b"Deformation"), (False, b"Inverse Deformation"), (True, b"")],
)
def test_places_in_millimetres(intent: bool, descrip: bytes, tmp_path: Path) -> None:
    here = apply_affine(FIXED.affine, voxels())
    file = write_as_spm(tmp_path / "y_a.nii", here + smooth(), intent, descrip)
    found = read_transform(file)(torch.from_numpy(here.reshape(-1, 3)))
    np.testing.assert_allclose(found, (here + smooth()).reshape(-1, 3), rtol=0, atol=2e-5)


def test_what_is_written_is_places(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3] += 0.05 * np.random.default_rng(3).normal(size=(3, 4))
    chain = compose(
        Displacement.of_world(torch.from_numpy(smooth()).movedim(-1, 0).contiguous(), FIXED.affine), Affine(affine)
    )
    write_transform(tmp_path / "y_a.nii.gz", chain, format="spm", fixed=FIXED)
    image = nib.load(tmp_path / "y_a.nii.gz")
    assert image.shape == (8, 7, 6, 1, 3)
    assert image.get_data_dtype() == np.float32
    assert image.header.get_intent() == ("vector", (), "Mapping")
    here = apply_affine(FIXED.affine, voxels())
    expected = apply_affine(affine, here + smooth())
    np.testing.assert_allclose(image.get_fdata()[..., 0, :], expected, rtol=0, atol=2e-5)
    back = read_transform(tmp_path / "y_a.nii.gz")
    points = torch.from_numpy(here.reshape(-1, 3))
    np.testing.assert_allclose(back(points), expected.reshape(-1, 3), rtol=0, atol=2e-5)


def test_places_that_are_unknown_go_on_from_the_nearest(tmp_path: Path) -> None:
    places = apply_affine(FIXED.affine, voxels()) + smooth()
    places[-2:] = np.nan
    file = write_as_spm(tmp_path / "y_a.nii", places, True, b"")
    with pytest.warns(InputWarning, match="84 of 336 voxels have no place"):
        found = read_transform(file)
    assert isinstance(found, Displacement)
    expected = smooth()
    expected[-2:] = expected[-3]
    np.testing.assert_allclose(found.vectors.movedim(0, -1), expected, rtol=0, atol=2e-5)
    write_as_spm(file, np.full_like(places, np.nan), True, b"")
    with pytest.raises(InputError, match=r"y_a\.nii.*no finite place"):
        read_transform(file)


def test_it_is_not_taken_for_a_field_of_itk(tmp_path: Path) -> None:
    places = apply_affine(FIXED.affine, voxels())
    file = write_as_spm(tmp_path / "y_a.nii", places, True, b"")
    with pytest.raises(InputError, match=r"one of SPM's: l2rfast.read_transform reads it"):
        read_displacement(file)
    other = write_as_spm(tmp_path / "other.nii", places, False, b"something else")
    with pytest.raises(InputError, match=r"other\.nii.*expected a transform of one of the formats"):
        read_transform(other)
    assert isinstance(read_transform(other, format="spm"), Displacement)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises(InputError, match=r"expected a deformation of SPM.*got the shape \(4, 4, 4\)"):
        read_transform(tmp_path / "scan.nii", format="spm")


def test_a_header_of_two_readings_is_refused(tmp_path: Path) -> None:
    image = nib.load(write_as_spm(tmp_path / "y_a.nii", apply_affine(FIXED.affine, voxels()), True, b""))
    image.header.set_qform(np.diag([1.0, 1, 1, 1]), code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "b.nii")
    with pytest.warns(InputWarning), pytest.raises(InputError, match="SPM takes the sform"):
        read_transform(tmp_path / "b.nii")
