"""NiftyReg's files: what its own programs make of them, its and ours.

Golden files of NiftyReg 1.5.70 (niftyreg 1.5.70rc1, built from source), of smooth noise on an oblique, flipped and
anisotropic fixed grid (14, 12, 11) and another moving one (11, 15, 13):

    reg_f3d -ref fixed -flo moving -ln 1 -maxit 20 -be 1e-4 -cpp spline.nii.gz -sx 8
    reg_f3d -ref fixed -flo moving -ln 1 -maxit 20 -be 1e-4 -cpp velocity.nii.gz -sx 6 -vel -aff affine.txt
    reg_transform -ref small -def spline.nii.gz deformation.nii.gz    # small: every second voxel of fixed
    reg_transform -ref small -disp spline.nii.gz displacement.nii.gz
    reg_f3d -ref flat -flo flat_moving -ln 1 -maxit 20 -be 1e-4 -cpp flat.nii.gz -sx 8    # a slice (12, 10)

expected.npz holds `reg_transform -ref small -def FILE` at [1::2, 1::2, 1::2], of a slice at all voxels, and
`reg_resample -ref small -flo moving -trans velocity.nii.gz -inter 1`. `linear` is the spline with intent_p1 6; `flow`,
`auto` and `back` are the deformation with intent_p1 3 and intent_p2 6, 0 and -5.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from l2rfast import InputError
from l2rfast.errors import InputWarning
from l2rfast.io import read_displacement, read_transform, write_transform
from l2rfast.world import Affine, Displacement, Grid, Transform

GOLDEN = Path(__file__).parent / "golden" / "niftyreg"
EXPECTED: dict[str, np.ndarray] = dict(np.load(GOLDEN / "expected.npz"))
SMALL = Grid((7, 6, 5), EXPECTED["small"])
FLAT = Grid((12, 10), np.array([[2.0, 0, 0, 5], [0, 3, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]]))


def places(grid: Grid) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij"), -1)
    return nib.affines.apply_affine(grid.affine, voxels)


def lead(transform: Transform, places: np.ndarray) -> np.ndarray:
    return transform(torch.from_numpy(places.reshape(-1, 3))).numpy().reshape(places.shape)


def edited(path: Path, name: str, **fields: Any) -> Path:
    """A golden file with other fields in its header."""
    image = nib.load(GOLDEN / name)
    header = image.header.copy()
    for field, value in fields.items():
        header[field] = value
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, header), path)
    return path


@pytest.mark.parametrize(
    ("name", "file", "fields", "within"),
    [
        ("spline", "spline", {}, 2e-5),
        ("linear", "spline", {"intent_p1": 6}, 2e-5),
        ("deformation", "deformation", {}, 1e-5),
        ("displacement", "displacement", {}, 1e-5),
        # Squared on grids of a few voxels: theirs goes beyond them in another way than ours.
        ("velocity", "velocity", {}, 1e-3),
        ("flow", "deformation", {"intent_p1": 3, "intent_p2": 6}, 1e-3),
        ("flow", "displacement", {"intent_p1": 4, "intent_p2": 6}, 1e-3),
        ("auto", "deformation", {"intent_p1": 3}, 1e-3),
        ("back", "deformation", {"intent_p1": 3, "intent_p2": -5}, 1e-3),
    ],
)
def test_what_reg_transform_makes_of_it(
    name: str, file: str, fields: dict[str, float], within: float, tmp_path: Path
) -> None:
    path = edited(tmp_path / "a.nii.gz", f"{file}.nii.gz", **fields)
    ours = lead(read_transform(path, fixed=SMALL), places(SMALL)[1::2, 1::2, 1::2])
    expected = EXPECTED[name if name in EXPECTED else "spline"]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=within)


def test_an_affine_map() -> None:
    transform = read_transform(GOLDEN / "affine.txt", format="niftyreg")
    theirs = EXPECTED["affine"]
    np.testing.assert_allclose(lead(transform, places(SMALL)[1::2, 1::2, 1::2]), theirs, rtol=0, atol=2e-5)


def test_a_slice() -> None:
    went = lead(read_transform(GOLDEN / "flat.nii.gz", fixed=FLAT), places(FLAT))
    np.testing.assert_allclose(went[:, :, 0, :2], EXPECTED["flat"], rtol=0, atol=1e-5)
    assert not went[..., 2].any()


def test_the_image_that_reg_resample_makes() -> None:
    transform = read_transform(GOLDEN / "velocity.nii.gz", fixed=SMALL)
    voxels = nib.affines.apply_affine(np.linalg.inv(EXPECTED["moving_affine"]), lead(transform, places(SMALL)))
    ours = map_coordinates(EXPECTED["moving"].astype(float), np.moveaxis(voxels, -1, 0), order=1, cval=np.nan)
    inside = np.isfinite(ours)  # theirs goes on to 0 within a voxel of the border
    assert inside.mean() > 0.5
    np.testing.assert_allclose(ours[inside], EXPECTED["image"][inside], rtol=0, atol=0.01)


def test_what_is_written_is_theirs(tmp_path: Path) -> None:
    """reg_transform -def of this file differs from the field by 6e-6 mm, NiftyReg 1.5.70."""
    vectors = 3 * torch.randn(3, *SMALL.shape, generator=torch.Generator().manual_seed(0))
    write_transform(tmp_path / "a.nii.gz", Displacement.of_world(vectors, SMALL.affine), format="niftyreg")
    written, theirs = nib.load(tmp_path / "a.nii.gz"), nib.load(GOLDEN / "displacement.nii.gz")
    for field in ("dim", "intent_code", "intent_name", "intent_p1", "intent_p2", "datatype", "xyzt_units"):
        assert (written.header[field] == theirs.header[field]).all(), field
    np.testing.assert_allclose(written.get_fdata()[:, :, :, 0], vectors.movedim(0, -1), atol=1e-5)
    np.testing.assert_allclose(written.affine, SMALL.affine, atol=1e-5)
    again = read_transform(tmp_path / "a.nii.gz")
    assert isinstance(again, Displacement)
    torch.testing.assert_close(again.vectors, vectors, rtol=0, atol=1e-5)


def test_an_affine_map_comes_back(tmp_path: Path) -> None:
    matrix = read_transform(GOLDEN / "affine.txt", format="niftyreg").matrix
    assert matrix is not None
    write_transform(tmp_path / "a.txt", Affine(matrix), format="niftyreg")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "a.txt"), matrix)
    with pytest.raises(InputError, match="expected a linear map"):
        write_transform(tmp_path / "b.txt", read_transform(GOLDEN / "displacement.nii.gz"), format="niftyreg")


def test_control_points_need_the_fixed_image() -> None:
    with pytest.raises(InputError, match=r"fixed: expected the fixed image, .* control points"):
        read_transform(GOLDEN / "spline.nii.gz")


def test_they_are_not_taken_for_fields_of_itk() -> None:
    """They have its intent, 1007, and SimpleITK reads them as LPS, places too."""
    with pytest.raises(InputError, match=r"NiftyReg's: l2rfast\.read_transform"):
        read_displacement(GOLDEN / "displacement.nii.gz")
    assert isinstance(read_transform(GOLDEN / "displacement.nii.gz"), Displacement)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_sizes_that_do_not_fit_into_the_file(suffix: str, tmp_path: Path) -> None:
    """Nothing is taken for 300 TB."""
    contents = bytearray(nib.load(GOLDEN / "displacement.nii.gz").to_bytes())
    contents[42:48] = np.array([30000] * 3, "<i2").tobytes()
    (tmp_path / f"a.{suffix}").write_bytes(gzip.compress(contents) if suffix == "nii.gz" else contents)
    with pytest.raises(InputError, match="damaged"):
        read_transform(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    "fields",
    [{"intent_p1": 7}, {"intent_p1": -1}, {"intent_p1": np.nan}, {"intent_p2": np.inf}, {"intent_p2": 1e9}],
    ids=str,
)
def test_fields_that_are_none_of_its_kinds(fields: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"NiftyReg.*got intent_name.*intent_p1"):
        read_transform(edited(tmp_path / "a.nii.gz", "displacement.nii.gz", **fields))


def test_a_header_that_niftyreg_reads_in_another_way(tmp_path: Path) -> None:
    """The sform counts for it, whatever its code is; for ITK and for us the qform."""
    image = nib.load(GOLDEN / "displacement.nii.gz")
    image.set_sform(image.affine + np.diag([0.5, 0, 0, 0]), 2)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.warns(InputWarning, match="two places"), pytest.raises(InputError, match="one reading"):
        read_transform(tmp_path / "a.nii.gz")


def test_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    contents = nib.load(GOLDEN / "displacement.nii.gz").to_bytes()
    path.write_bytes(contents[:-100])
    with pytest.raises(InputError, match="damaged"):
        read_transform(path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), None, nib.load(GOLDEN / "spline.nii.gz").header), path)
    with pytest.raises(InputError, match=r"got the shape \(4, 4, 4, 3\)"):
        read_transform(path)
    (tmp_path / "a.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1\n")
    with pytest.raises(InputError, match="four rows of four numbers"):
        read_transform(tmp_path / "a.txt", format="niftyreg")
