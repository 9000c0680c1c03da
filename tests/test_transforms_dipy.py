"""DIPY's mappings and affine maps: what DIPY makes of them, its and ours.

Golden files of DIPY 1.12.1: SyN of two blobs on an oblique, flipped, anisotropic static grid (9, 8, 7) and another
moving one (8, 10, 9), from a pre-alignment:

    mapping = SymmetricDiffeomorphicRegistration(SSDMetric(3), level_iters=[30]).optimize(
        static, image, static_grid2world=fixed, moving_grid2world=moving, prealign=prealign)
    write_mapping(mapping, "mapping.nii.gz")
    warped, reached = mapping.transform(image), mapping.transform_points(points)
    affine = AffineMap(prealign, domain_grid_shape=..., ...).transform(image)
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from scipy.ndimage import map_coordinates

from l2rfast import InputError
from l2rfast.io import read_transform, write_transform
from l2rfast.world import Affine, Displacement, Grid, Transform, compose

GOLDEN = Path(__file__).parent / "golden" / "dipy"
EXPECTED: dict[str, np.ndarray] = dict(np.load(GOLDEN / "expected.npz"))
FIXED, MOVING = Grid((9, 8, 7), EXPECTED["fixed"]), Grid((8, 10, 9), EXPECTED["moving"])


def lead(transform: Transform, points: np.ndarray) -> np.ndarray:
    return transform(torch.from_numpy(points)).numpy()


def resampled(transform: Transform) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, FIXED.size), indexing="ij"), -1).reshape(-1, 3)
    there = apply_affine(np.linalg.inv(MOVING.affine), lead(transform, apply_affine(FIXED.affine, voxels)))
    return map_coordinates(EXPECTED["image"], there.T, order=1, mode="grid-constant").reshape(FIXED.size)


def test_a_mapping_and_its_prealignment_take_places_where_dipy_does(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "affine.txt", EXPECTED["prealign"])
    chain = compose(read_transform(GOLDEN / "mapping.nii.gz"), read_transform(tmp_path / "affine.txt", format="dipy"))
    np.testing.assert_allclose(lead(chain, EXPECTED["points"]), EXPECTED["reached"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(resampled(chain), EXPECTED["warped"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["affine.npy", "affine.txt"])
def test_an_affine_map_is_one_from_fixed_to_moving(name: str, tmp_path: Path) -> None:
    write_transform(tmp_path / name, Affine(EXPECTED["prealign"]), format="dipy")
    stored = np.load(tmp_path / name) if name.endswith("npy") else np.loadtxt(tmp_path / name)
    np.testing.assert_array_equal(stored, EXPECTED["prealign"])
    found = read_transform(tmp_path / name, format=None if name.endswith("npy") else "dipy")
    np.testing.assert_allclose(resampled(found), EXPECTED["affine"], rtol=0, atol=1e-3)


def test_what_is_written_is_as_dipy_has_it(tmp_path: Path) -> None:
    ours = read_transform(GOLDEN / "mapping.nii.gz")
    write_transform(tmp_path / "a.nii.gz", ours, format="dipy")
    theirs, written = nib.load(GOLDEN / "mapping.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    assert written.shape == theirs.shape
    assert written.get_data_dtype() == theirs.get_data_dtype()
    np.testing.assert_allclose(written.affine, np.linalg.inv(FIXED.affine), rtol=0, atol=1e-6)
    forward, backward = np.moveaxis(written.get_fdata(), -1, 0)
    np.testing.assert_allclose(backward, theirs.get_fdata()[..., 1], rtol=0, atol=2e-5)
    # The first leads back to where the second came from.
    inner = (slice(3, -3),) * 3
    first = Displacement.of_world(torch.from_numpy(forward).movedim(-1, 0).contiguous(), FIXED.affine)
    assert np.linalg.norm(forward - theirs.get_fdata()[..., 0], axis=-1)[inner].max() < 0.6
    points = apply_affine(FIXED.affine, [[4, 4, 3], [4, 3, 3], [5, 4, 3]])
    np.testing.assert_allclose(lead(ours, lead(ours.inverse, points)), points, rtol=0, atol=1e-3)
    np.testing.assert_allclose(lead(first, points), lead(ours.inverse, points), rtol=0, atol=1e-4)


def test_dipy_applies_what_is_written(tmp_path: Path) -> None:
    from dipy import align

    chain = compose(read_transform(GOLDEN / "mapping.nii.gz"), Affine(EXPECTED["prealign"]))
    write_transform(tmp_path / "a.nii.gz", chain, format="dipy", fixed=FIXED)
    for name, data, grid in (("moving", EXPECTED["image"], MOVING), ("fixed", EXPECTED["warped"], FIXED)):
        nib.save(nib.Nifti1Image(data, grid.affine), tmp_path / f"{name}.nii.gz")
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("a", "moving", "fixed")]
    mapping = align.read_mapping(*files)
    np.testing.assert_allclose(mapping.transform(EXPECTED["image"]), EXPECTED["warped"], rtol=0, atol=2e-3)
    reached = mapping.transform_points(EXPECTED["points"])
    np.testing.assert_allclose(reached, EXPECTED["reached"], rtol=0, atol=1e-4)


def test_what_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    np.save(tmp_path / "b.npy", np.eye(3))
    np.save(tmp_path / "c.npy", np.full((4, 4), None), allow_pickle=True)
    np.save(tmp_path / "d.npy", np.full((4, 4), np.nan))
    (tmp_path / "e.npy").write_bytes((tmp_path / "d.npy").read_bytes()[:-8])
    for name in ("a.nii.gz", "b.npy", "c.npy", "d.npy", "e.npy"):
        with pytest.raises(InputError, match=rf"{name}.*expected"):
            read_transform(tmp_path / name, format="dipy")
    with pytest.raises(InputError, match="expected a linear map"):
        write_transform(tmp_path / "f.npy", read_transform(GOLDEN / "mapping.nii.gz"), format="dipy")
    assert not (tmp_path / "f.npy").exists()
