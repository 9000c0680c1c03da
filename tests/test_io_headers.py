"""Where images lie by their headers: as SimpleITK has it, in millimetres."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.imageglobals import logger
from scipy.spatial.transform import Rotation

from l2rfast import InputError, io
from l2rfast.cli.job import run
from l2rfast.errors import InputWarning
from l2rfast.io.headers import checked

SHAPE = (9, 8, 7)
SCANNER = np.eye(4)
SCANNER[:3, :3] = Rotation.from_euler("xyz", [10, -25, 160], degrees=True).as_matrix() * [2.0, 1.5, 3.0]
SCANNER[:3, 3] = [-12, 30, 4]


def other(kind: str) -> np.ndarray:
    affine = SCANNER.copy()
    if kind == "moved":
        affine[:3, 3] += [20, -15, 5]
    if kind == "sheared":
        affine[0, 1] += 0.4
    if kind == "scaled":
        affine[:3, :3] *= 1.1
    if kind == "mirrored":
        affine[:3, 0] *= -1
    return affine


def save(path: Path, array: np.ndarray, qform: Any, sform: Any, codes: tuple[int, int], **fields: Any) -> Path:
    nifti: Any = nib.Nifti1Image(array, qform)
    nifti.set_qform(qform, codes[0])
    nifti.set_sform(sform, codes[1], update_affine=False)
    for name, value in fields.items():
        nifti.header[name] = value
    contents = bytearray(nib.Nifti1Image(array, None, nifti.header).to_bytes())
    contents[252:256] = struct.pack("<2h", *codes)
    path.write_bytes(contents)
    return path


def values(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def read(path: Path) -> tuple[io.Volume, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        volume = io.read_image(path)
    return volume, [str(warning.message) for warning in caught]


def itk(path: Path) -> np.ndarray:
    """SimpleITK's voxel -> RAS millimetres."""
    seen = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(seen.GetDirection(), (3, 3)) * seen.GetSpacing()
    affine[:3, 3] = seen.GetOrigin()
    return np.diag([-1.0, -1, 1, 1]) @ affine


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (1, 4), (2, 1), (3, 2), (0, 1), (0, 2), (1, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["same", "moved", "sheared", "scaled", "mirrored"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_forms_count_as_itk_has_them(tmp_path: Path, kind: str, codes: tuple[int, int]) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, other(kind), codes)
    volume, said = read(path)
    if kind == "sheared" and not codes[0] and codes[1]:  # refused by ITK
        np.testing.assert_allclose(volume.affine, other(kind), atol=1e-4)
        assert not said
        return
    np.testing.assert_allclose(volume.affine, itk(path), atol=1e-4)
    disagree = [form for form, code in zip((SCANNER, other(kind)), codes, strict=True) if code]
    if not any(codes):
        assert "both form codes are 0" in said[0]
    elif all(np.allclose(form, volume.affine, atol=1e-4) for form in disagree):
        assert not said
    else:
        assert len(said) == 1
        assert "as ITK does" in said[0]


def test_says_by_how_much_two_forms_disagree_and_which_counts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, other("moved"), (1, 2))
    with pytest.warns(InputWarning) as caught:
        io.read_image(path)
    assert str(caught[0].message) == (
        f"image ({path}): two places in its header, 25.5 mm apart at the farthest corner: "
        f"the sform (code 2) is not used, the qform (code 1) is, as ITK does"
    )
    assert pytest.approx(25.5, abs=0.05) == (20**2 + 15**2 + 5**2) ** 0.5


@pytest.mark.parametrize("angles", [(0.0, 0.0, 180.0), (179.5, 0.0, 0.0), (0.3, 179.9, 0.2)])
def test_a_quaternions_rounding_is_no_disagreement(tmp_path: Path, angles: tuple[float, float, float]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * 0.7
    affine[:3, 3] = [-123.4567, 89.1234, 45.678]
    _, said = read(save(tmp_path / "a.nii", values((120, 4, 120)), affine, affine, (1, 2)))
    assert not said


@pytest.mark.parametrize("qfac", [0.0, 1.0, -1.0])
def test_any_qfac_counts_as_itk_has_it(tmp_path: Path, qfac: float) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (1, 0))
    contents = bytearray(path.read_bytes())
    contents[76:80] = struct.pack("<f", qfac)
    path.write_bytes(contents)
    np.testing.assert_allclose(read(path)[0].affine, itk(path), atol=1e-4)


def test_a_quaternion_that_is_none_matters_only_where_it_counts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (0, 1), quatern_b=0.9, quatern_c=0.9)
    volume, said = read(path)
    np.testing.assert_allclose(volume.affine, itk(path), atol=1e-4)
    assert not said


@pytest.mark.parametrize(("code", "millimetres"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001)])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (0, 0)])
@pytest.mark.filterwarnings("ignore:.*both form codes are 0")
def test_sizes_and_places_are_in_the_unit_of_the_header(
    tmp_path: Path, code: int, millimetres: float, codes: tuple[int, int]
) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, codes, xyzt_units=code + 8)  # 8: seconds
    volume = io.read_image(path)
    np.testing.assert_allclose(volume.affine, itk(path), rtol=1e-5, atol=1e-5 * millimetres)
    np.testing.assert_allclose(volume.spacing, np.array([2, 1.5, 3]) * millimetres, rtol=1e-5)


def test_labels_and_fields_are_in_the_unit_of_their_header(tmp_path: Path) -> None:
    like = io.read_image(save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (1, 1), xyzt_units=3))
    ones = np.ones(SHAPE, np.uint8)
    wrong = save(tmp_path / "wrong.nii", ones, SCANNER, SCANNER, (1, 1), xyzt_units=2)
    metres = SCANNER * [[1e-6], [1e-6], [1e-6], [1]]
    for path in (
        save(tmp_path / "same.nii", ones, SCANNER, SCANNER, (1, 1), xyzt_units=3),
        save(tmp_path / "metres.nii", ones, metres, metres, (1, 1), xyzt_units=1),
    ):
        assert io.read_labels(path, like).data.unique().tolist() == [1]
    with pytest.raises(InputError, match="affine of its image"):
        io.read_labels(wrong, like)
    field = values((*SHAPE, 1, 3))
    path = save(tmp_path / "field.nii", field, SCANNER, SCANNER, (1, 1), xyzt_units=3, intent_code=1007)
    _, affine = io.read_displacement(path)
    np.testing.assert_allclose(affine, like.affine, rtol=1e-6)


def test_a_unit_that_is_none_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (1, 1), xyzt_units=5)
    volume, said = read(path)
    assert said == [f"image ({path}): unit of length 5 in its header is none of NIfTI's: taken for millimetres"]
    np.testing.assert_allclose(volume.affine, itk(path), atol=1e-4)


def patched(path: Path, *fields: tuple[int, str, tuple[float, ...]]) -> Path:
    """A file some bytes of whose header are replaced: by offset, format and values."""
    contents = bytearray(path.read_bytes())
    for offset, kind, numbers in fields:
        struct.pack_into(f"<{kind}", contents, offset, *numbers)
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("size", [0.0, -2.0, float("nan"), float("inf")])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("axis", [0, 2])
def test_sizes_that_are_none_are_read_as_itk_does_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], axis: int, codes: tuple[int, int], size: float
) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, codes)
    volume, said = read(patched(path, (80 + 4 * axis, "f", (size,))))
    assert not capfd.readouterr().err  # nibabel itself says nothing
    np.testing.assert_allclose(volume.affine, itk(path), atol=1e-4)
    assert "it is read as ITK does" in said[0]


@pytest.mark.parametrize("codes", [(7, 9), (-1, 0), (-1, -1), (-1, 2), (9, 2)])
@pytest.mark.filterwarnings("ignore:.*both form codes are 0", "ignore:.*two places")
def test_codes_that_are_none_count_as_itk_has_them(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, other("moved"), (1, 1))
    volume, said = read(patched(path, (252, "hh", codes)))
    np.testing.assert_allclose(volume.affine, itk(path), atol=1e-4)
    assert "it is read as ITK does" in said[0]


@pytest.mark.parametrize("quaternion", [(1.00001, 0.0, 0.0), (0.8, 0.8, 0.8)])
def test_a_quaternion_longer_than_one_is_read_as_itk_does(
    tmp_path: Path, quaternion: tuple[float, float, float]
) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (1, 0))
    np.testing.assert_allclose(read(patched(path, (256, "fff", quaternion)))[0].affine, itk(path), atol=1e-4)


def test_nibabel_stays_as_it_is_while_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads may read by it, whose quaternions and remarks are theirs."""

    def state() -> list[Any]:
        return [nib.Nifti1Header.quaternion_threshold, *logger.handlers, logger.level]

    header: Any = nib.Nifti1Header
    found, check, before = [], header._chk_pixdims, state()
    monkeypatch.setattr(header, "_chk_pixdims", lambda *args: (found.append(state()), check(*args))[1])
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (1, 0))
    found.clear()
    _, said = read(patched(path, (256, "fff", (0.8, 0.8, 0.8)), (80, "f", (-2.0,))))
    assert len(said) == 1
    assert found
    assert all(during == before for during in found)
    with pytest.raises(ValueError, match="w2 should be positive"):
        nib.load(path)


def test_a_form_that_is_not_finite_is_not_used_and_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (1, 1))
    volume, said = read(patched(path, (280, "12f", (float("nan"),) * 12)))
    np.testing.assert_allclose(volume.affine, SCANNER, atol=1e-4)
    assert said == [
        f"image ({path}): the sform (code 1) in its header is not finite: it is not used, the qform (code 1) is"
    ]


@pytest.mark.parametrize("dims", [(4, 0, 1, 1, 1), (7, 0, 0, 0, 0), (5, 1, 0, 1, 1)])
def test_further_axes_of_length_0_count_as_1(tmp_path: Path, dims: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii", values(), SCANNER, SCANNER, (1, 1))
    path = patched(path, (40, "8h", (dims[0], *SHAPE, *dims[1:])))
    np.testing.assert_array_equal(read(path)[0].data.numpy(), sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)


def test_an_image_that_was_changed_in_memory_lies_there(tmp_path: Path) -> None:
    nifti: Any = nib.load(save(tmp_path / "a.nii", values(), SCANNER, other("moved"), (1, 2)))
    with pytest.warns(InputWarning, match="two places"):
        np.testing.assert_allclose(io.as_volume("a", nifti).affine, SCANNER, atol=1e-4)
    nifti.affine[:3, 3] = 5
    nib.save(nifti, tmp_path / "b.nii")
    np.testing.assert_allclose(io.as_volume("a", nifti).affine, itk(tmp_path / "b.nii"), atol=1e-4)


def test_an_image_in_memory_lies_where_nibabel_would_write_it(tmp_path: Path) -> None:
    nifti = nib.Nifti1Image(values(), SCANNER)
    nib.save(nifti, tmp_path / "a.nii")
    np.testing.assert_allclose(io.as_volume("a", nifti).affine, itk(tmp_path / "a.nii"), atol=1e-4)


@pytest.mark.parametrize(
    ("codes", "kind", "units"),
    [((1, 2), "moved", 2), ((1, 1), "moved", 3), ((0, 0), "same", 2), ((1, 2), "sheared", 1), ((1, 1), "scaled", 0)],
)
def test_itk_resamples_by_the_field_as_the_command_does(
    tmp_path: Path, codes: tuple[int, int], kind: str, units: int
) -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"))
    images = [(900 * np.exp(-3 * ((grid - at) ** 2).sum(0))).astype("f4") for at in (0.0, 0.1)]
    names = tuple(
        save(tmp_path / f"{name}.nii", image, SCANNER, other(kind), codes, xyzt_units=units)
        for name, image in zip(("fixed", "moving"), images, strict=True)
    )
    run(*names, tmp_path / "out", quiet=True, preset="fast", init="none")
    fixed, moving, warped = (
        sitk.ReadImage(str(name), sitk.sitkFloat32) for name in (*names, tmp_path / "out" / "warped.nii.gz")
    )
    np.testing.assert_allclose(fixed.GetSpacing(), warped.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(fixed.GetOrigin(), warped.GetOrigin(), rtol=1e-5)
    vectors = sitk.ReadImage(str(tmp_path / "out" / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    field = sitk.DisplacementFieldTransform(vectors)
    again = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, field, sitk.sitkLinear))
    both = [x[3:-3, 3:-3, 3:-3] for x in (again, sitk.GetArrayFromImage(warped))]
    np.testing.assert_allclose(*both, atol=0.01 * 900)
    report = (tmp_path / "out" / "report.json").read_text()
    assert ("as ITK does" in report) == (kind != "same" or codes == (0, 0))


@pytest.mark.parametrize("intent", [1006, 1007])
@pytest.mark.parametrize("shape", [(*SHAPE, 1, 3), (*SHAPE, 3)])
def test_vectors_are_ras_or_lps_by_their_intent(tmp_path: Path, intent: int, shape: tuple[int, ...]) -> None:
    vectors = values(shape)
    path = save(tmp_path / "field.nii", vectors, SCANNER, SCANNER, (1, 1), intent_code=intent)
    disp, affine = io.read_displacement(path)
    if len(shape) == 5:  # ITK's idea of it, LPS
        world = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0, 3) * [-1, -1, 1]
    else:
        world = vectors * ([1, 1, 1] if intent == 1006 else [-1, -1, 1])
    voxels = np.einsum("ab,ijkb->aijk", np.linalg.inv(SCANNER[:3, :3]), world)
    np.testing.assert_allclose(disp[0].numpy(), voxels, atol=1e-5)
    np.testing.assert_allclose(affine, SCANNER, atol=1e-4)
    assert disp.dtype == torch.float32


def test_voxels_whose_size_is_no_number_are_refused() -> None:
    """As those of a text may be; warnings are errors."""
    with pytest.raises(InputError, match="three independent axes"):
        checked("fixed", np.diag([1e200, 1, 1, 1]))
