"""AFNI's matrices and warps: by hand where nothing is oblique, by nitransforms' numbers where something is."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from test_world import affine, places, smooth

from l2rfast import InputError
from l2rfast.errors import InputWarning
from l2rfast.io import read_transform, write_transform
from l2rfast.world import Affine, Displacement, Grid, compose

FLIP = np.diag([-1.0, -1, 1, 1])
# Flipped, axes exchanged, voxels of unequal size; not oblique.
FIXED = Grid((9, 10, 8), np.array([[0, -1.5, 0, 6], [1.2, 0, 0, -5], [0, 0, 2, -7], [0, 0, 0, 1.0]]))
MOVING = Grid((7, 9, 11), np.array([[-2.0, 0, 0, 7], [0, 1.1, 0, -5], [0, 0, -1, 5], [0, 0, 0, 1]]))


def oblique(grid: Grid, degrees: float) -> Grid:
    """Turned about its first voxel."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = grid.affine.copy()
    turned[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ turned[:3, :3]
    return Grid(grid.shape, turned)


def test_a_matrix_is_of_lps_from_base_to_source(tmp_path: Path) -> None:
    ours = affine().array
    (tmp_path / "a.aff12.1D").write_text(
        "# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n "
        + " ".join(f"{number:.12f}" for number in (FLIP @ ours @ FLIP)[:3].ravel())
        + "\n"
    )
    found = read_transform(tmp_path / "a.aff12.1D", fixed=FIXED, moving=MOVING)
    np.testing.assert_allclose(found.matrix, ours, atol=1e-10)
    with pytest.warns(InputWarning, match="an image is not given, and taken for one that is not oblique"):
        assert np.allclose(read_transform(tmp_path / "a.aff12.1D").matrix, ours, atol=1e-10)  # type: ignore[arg-type]
    rows = "\n".join(" ".join(map(str, row)) for row in (FLIP @ ours @ FLIP)[:3])
    (tmp_path / "three.1D").write_text(rows)
    found = read_transform(tmp_path / "three.1D", fixed=FIXED, moving=MOVING)
    np.testing.assert_allclose(found.matrix, ours, atol=1e-10)


def test_of_oblique_images_the_axes_are_straight(tmp_path: Path) -> None:
    """A voxel of base at i is that of source at j, whatever the headers turn: places of AFNI are of straight axes."""
    fixed, moving, lps = oblique(FIXED, 12), oblique(MOVING, -9), FLIP @ affine().array @ FLIP
    (tmp_path / "a.1D").write_text(" ".join(map(str, lps[:3].ravel())))
    found = read_transform(tmp_path / "a.1D", fixed=fixed, moving=moving).matrix
    straight = [FIXED.affine, MOVING.affine]  # of which these were turned
    between = np.linalg.solve(straight[1], FLIP @ lps @ FLIP @ straight[0])
    np.testing.assert_allclose(np.linalg.solve(moving.affine, found @ fixed.affine), between, atol=1e-9)


@pytest.mark.parametrize("degrees", [0, 15])
def test_what_is_written_is_read(degrees: float, tmp_path: Path) -> None:
    fixed, moving = oblique(FIXED, degrees), oblique(MOVING, -degrees)
    write_transform(tmp_path / "a.1D", affine(), format="afni", fixed=fixed, moving=moving)
    again = read_transform(tmp_path / "a.1D", fixed=fixed, moving=moving)
    np.testing.assert_allclose(again.matrix, affine().array, atol=1e-12)
    chain = compose(Displacement(smooth(fixed.shape, 1.0), fixed.affine), affine())
    write_transform(tmp_path / "w.nii.gz", chain, format="afni", fixed=fixed, moving=moving)
    with pytest.raises(InputError, match="expected a transform of one of the formats"):  # and not ITK's
        read_transform(tmp_path / "w.nii.gz", fixed=fixed, moving=moving)
    field = read_transform(tmp_path / "w.nii.gz", format="afni", fixed=fixed, moving=moving)
    np.testing.assert_allclose(field(places(fixed)), chain(places(fixed)), atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_a_warp_is_lps_millimetres_to_be_added(shape: tuple[int, ...], tmp_path: Path) -> None:
    vectors = smooth(FIXED.shape, 2.0)[0].movedim(0, -1).numpy()
    stored = nib.Nifti1Image(vectors.reshape(*FIXED.shape, *shape), FIXED.affine)
    stored.header.extensions.append(nib.nifti1.Nifti1Extension(4, b"<AFNI_attributes></AFNI_attributes>"))
    nib.save(stored, tmp_path / "w_WARP.nii")
    found = read_transform(tmp_path / "w_WARP.nii", fixed=FIXED, moving=MOVING)
    at = places(FIXED)
    moved = at.numpy() + vectors.reshape(-1, 3) * [-1, -1, 1]
    np.testing.assert_allclose(found(at), moved, atol=1e-5)


def test_a_field_of_another_tool_is_none(tmp_path: Path) -> None:
    stored = nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4))
    stored.header.set_intent(2006)
    nib.save(stored, tmp_path / "fnirt.nii")
    with pytest.raises(InputError, match=r"got the shape \(4, 4, 4, 3\) and intent 2006"):
        read_transform(tmp_path / "fnirt.nii", format="afni")


def test_a_series_of_matrices_and_other_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "many.1D").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 3)
    with pytest.raises(InputError, match="expected one matrix, got 3, one for each volume of a series: take out one"):
        read_transform(tmp_path / "many.1D")
    (tmp_path / "motion.1D").write_text("0.1 0.2 0.3 1 2 3\n")
    with pytest.raises(InputError, match="got rows of 6 numbers, where a matrix has 12"):
        read_transform(tmp_path / "motion.1D")
    (tmp_path / "words.1D").write_text("no numbers\n")
    with pytest.raises(InputError, match="expected a transform of one of the formats"):
        read_transform(tmp_path / "words.1D")
    field = Displacement(torch.zeros(1, 3, 4, 4, 4), np.eye(4))
    with pytest.raises(InputError, match=r"expected a linear map, as AFNI's \.1D holds no other"):
        write_transform(tmp_path / "a.1D", field, format="afni", fixed=FIXED, moving=MOVING)
    with pytest.raises(InputError, match="fixed: expected the fixed image"), pytest.warns(InputWarning):
        write_transform(tmp_path / "a.nii", Affine(np.eye(4)), format="afni", moving=MOVING)


def test_nitransforms_reads_the_same(tmp_path: Path) -> None:
    """Oblique too."""
    from nitransforms.io import afni

    for degrees in (0, 15):
        fixed, moving = oblique(FIXED, degrees), oblique(MOVING, -degrees)
        images = [nib.Nifti1Image(np.zeros(grid.shape, np.float32), grid.affine) for grid in (fixed, moving)]
        write_transform(tmp_path / "a.1D", affine(), format="afni", fixed=fixed, moving=moving)
        theirs = afni.AFNILinearTransform.from_string((tmp_path / "a.1D").read_text())
        found = theirs.to_ras(reference=images[0], moving=images[1])
        np.testing.assert_allclose(found, affine().array, atol=1e-4)
