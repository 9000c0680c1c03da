"""Images in other formats than NIfTI lie where SimpleITK has them, with its values; damaged ones end in a sentence."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from formats import CORNERS, OBLIQUE, SHAPE, itk_image, itk_places, places, series, values
from runs import refused
from scipy.spatial.transform import Rotation

from l2rfast import io
from l2rfast.cli.job import run

pytestmark = pytest.mark.usefixtures("same_locale")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".MHA"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["i2", "u1", "u2", "i4", "f4", "f8"])
def test_meta_images_and_nrrd_lie_where_itk_has_them(tmp_path: Path, suffix: str, compressed: bool, dtype: str) -> None:
    array = np.abs(values()).astype(dtype)
    sitk.WriteImage(itk_image(array), str(tmp_path / f"a{suffix.lower()}"), compressed)
    path = (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"a{suffix}")
    volume = io.read_image(path)
    assert volume.data.dtype == torch.float32
    np.testing.assert_array_equal(volume.data.numpy(), array)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-9)
    np.testing.assert_allclose(places(volume), nib.affines.apply_affine(OBLIQUE, CORNERS), atol=1e-9)
    if suffix != ".MHA":
        np.testing.assert_allclose(places(volume), itk_places(path), atol=1e-9)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_images_of_two_axes_lie_in_the_plane_of_the_first_two(tmp_path: Path, suffix: str) -> None:
    turn = np.eye(4)
    turn[:2, :2] = Rotation.from_euler("z", 25, degrees=True).as_matrix()[:2, :2] * [1.5, 0.9]
    turn[:2, 3] = [-20, 31]
    sitk.WriteImage(itk_image(values((9, 8)), turn), str(tmp_path / f"a{suffix}"))
    volume = io.as_volume("image", tmp_path / f"a{suffix}", dims=(2, 3))
    np.testing.assert_array_equal(volume.data.numpy(), values((9, 8)))
    np.testing.assert_allclose(volume.affine, turn, atol=1e-9)


SPACES = {
    "space: left-posterior-superior": [-1, -1, 1],
    "space: right-anterior-superior": [1, 1, 1],
    "space: RAS": [1, 1, 1],
    "space: left-anterior-superior": [-1, 1, 1],
    "space dimension: 3": [-1, -1, 1],
}


@pytest.mark.parametrize(("space", "signs"), SPACES.items())
def test_spaces_of_nrrd(tmp_path: Path, space: str, signs: list[int]) -> None:
    columns = " ".join("(" + ",".join(map(repr, map(float, column))) + ")" for column in OBLIQUE[:3, :3].T)
    origin = "(" + ",".join(map(repr, map(float, OBLIQUE[:3, 3]))) + ")"
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\n{space}\nsizes: 9 8 7\nspace directions: {columns}\n"
        f"space origin: {origin}\nendian: little\nencoding: raw\n\n"
    )
    path = tmp_path / "a.nrrd"
    path.write_bytes(header.encode() + values().astype("<i2").tobytes("F"))
    volume = io.read_image(path)
    np.testing.assert_array_equal(volume.data.numpy(), values())
    np.testing.assert_allclose(volume.affine, np.diag([*signs, 1]) @ OBLIQUE, atol=1e-9)
    np.testing.assert_allclose(places(volume), itk_places(path), atol=1e-9)


def header_of(kind: str, line: str) -> bytes:
    if kind == "nrrd":
        text = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 8 7\n{line}\nendian: little\nencoding: raw\n\n"
    else:
        text = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 9 8 7\n{line}\nElementType = MET_SHORT\n"
        text += "ElementDataFile = LOCAL\n"
    return text.encode("latin-1")


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        ("nrrd", 'spacings: 1 2 3\nunits: "um" "um" "um"', "its unit of length, um, is taken for millimetres"),
        ("nrrd", 'spacings: 1 2 3\nunits: "mm" "mm" "mm"', ""),
        ("nrrd", "space: scanner-xyz\nspace directions: (1,0,0) (0,2,0) (0,0,3)", "where its space is scanner-xyz"),
        ("mha", "ElementSpacing = 1 2 3\nDistanceUnits = um", "its unit of length, um, is taken for millimetres"),
        ("mha", "ElementSpacing = 1 2 3\nAnatomicalOrientation = RAS", ""),
        ("mha", "ElementSpacing = 1 2 3\nNam\xe9 = \xe9", ""),
    ],
)
def test_what_itk_takes_no_notice_of_is_said(
    tmp_path: Path, kind: str, line: str, said: str, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(header_of(kind, line) + values().tobytes("F"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [])
        volume = io.read_image(path)
    np.testing.assert_allclose(places(volume), itk_places(path), atol=1e-9)
    assert volume.spacing == pytest.approx((1, 2, 3))
    assert [said in str(warning.message) for warning in recwarn] == [True] * bool(said)


def test_mgz_lies_where_freesurfer_has_it(tmp_path: Path) -> None:
    """Its header has the place of the middle, the direction of each axis and its spacing, in RAS."""
    image: Any = nib.freesurfer.MGHImage(values().astype("i2"), OBLIQUE.astype("f4"))
    nib.save(image, tmp_path / "a.mgz")
    header = nib.load(tmp_path / "a.mgz").header
    directions, spacing, middle = np.array(header["Mdc"]).T, np.array(header["delta"]), np.array(header["Pxyz_c"])
    volume = io.read_image(tmp_path / "a.mgz")
    np.testing.assert_array_equal(volume.data.numpy(), values())
    for voxel, place in zip(CORNERS, places(volume), strict=True):
        from_middle = spacing * (np.array(voxel) - np.array(SHAPE) / 2)
        np.testing.assert_allclose(place, middle + directions @ from_middle, atol=1e-4)


def test_other_numbers_and_axes_are_refused(tmp_path: Path) -> None:
    vectors = sitk.GetImageFromArray(values((7, 8, 9, 3)), isVector=True)
    flat = sitk.GetImageFromArray(values((8, 9, 3)), isVector=True)
    for suffix in (".mha", ".nrrd"):
        for image in (vectors, flat):
            sitk.WriteImage(image, str(tmp_path / f"vectors{suffix}"))
            assert "expected one number for each voxel, got 3" in refused(tmp_path / f"vectors{suffix}")
        sitk.WriteImage(sitk.GetImageFromArray(values((3, 7, 8, 9)), isVector=False), str(tmp_path / f"4d{suffix}"))
        assert "got shape (9, 8, 7, 3)" in refused(tmp_path / f"4d{suffix}")
    sitk.WriteImage(sitk.Cast(itk_image(values()), sitk.sitkComplexFloat32), str(tmp_path / "complex.nrrd"))
    assert "got 2 (colours, vectors or complex numbers)" in refused(tmp_path / "complex.nrrd")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".dcm"])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_damaged_files_end_in_a_sentence(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".mgz", ".mgh"):
        nib.save(nib.freesurfer.MGHImage(values(), OBLIQUE.astype("f4")), path)
    elif suffix == ".dcm":
        path = next(series(tmp_path / "dicom", values((64, 64, 1))).iterdir())
    else:
        sitk.WriteImage(itk_image(values()), str(path))
    contents = path.read_bytes()
    damaged = [contents[: int(share * len(contents))] for share in (0, 0.1, 0.5)]
    damaged += [b"not an image\n" * 50, bytes(1000)]
    for content in damaged:
        path.write_bytes(content)
        assert "the file is empty, damaged or of another kind" in refused(path)
    path.unlink()
    assert "but there is no such file" in refused(path)
    gc.collect()  # nibabel leaves a damaged .mgh open
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_values_in_a_file_of_their_own(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    sitk.WriteImage(itk_image(values()), str(tmp_path / f"a{suffix}"))
    (tmp_path / "a.raw").write_bytes(b"short")
    assert "with the file of values that it names" in refused(tmp_path / f"a{suffix}")
    (tmp_path / "a.raw").unlink()
    assert "with the file of values that it names" in refused(tmp_path / f"a{suffix}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "needed"), [("a.mha", "SimpleITK"), ("a.nrrd", "SimpleITK"), ("dicom", "SimpleITK")])
def test_a_library_that_is_not_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, needed: str
) -> None:
    path = tmp_path / name
    if name == "dicom":
        path.mkdir()
    else:
        sitk.WriteImage(itk_image(values()), str(path))
    monkeypatch.setitem(sys.modules, needed, None)
    message = refused(path)
    assert f"needs {needed}, which is not here: pip install {needed}" in message


def test_the_standard_error_is_back_after_reading(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mha").write_text("nothing")
    refused(tmp_path / "a.mha")
    print("here", file=sys.stderr)
    assert capfd.readouterr().err == "here\n"


def test_threads_may_read_at_the_same_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sitk.WriteImage(itk_image(values()), str(tmp_path / "a.mha"))
    contents = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "cut.mha").write_bytes(contents[: len(contents) // 2])

    def read(i: int) -> bool:
        if i % 2:
            return "damaged" in refused(tmp_path / "cut.mha")
        return bool((io.read_image(tmp_path / "a.mha").data.numpy() == values()).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(40)))
    print("here", file=sys.stderr)
    assert capfd.readouterr().err == "here\n"


def anatomy() -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 22, 20)], indexing="ij"))
    return (900 * np.exp(-3 * (grid**2).sum(0)) * (1 + 0.3 * np.sin(9 * grid[0] + 7 * grid[1] * grid[2]))).astype("i2")


@pytest.mark.parametrize("moving", ["a.mha", "a.nrrd", "a.mgz", "dicom"])
def test_an_image_registered_with_itself_in_another_format_stays(tmp_path: Path, moving: str) -> None:
    array = anatomy()
    nib.save(nib.Nifti1Image(array, OBLIQUE), tmp_path / "a.nii.gz")
    if moving == "dicom":
        series(tmp_path / moving, array)
    elif moving == "a.mgz":
        nib.save(nib.freesurfer.MGHImage(array, OBLIQUE.astype("f4")), tmp_path / moving)
    else:
        sitk.WriteImage(itk_image(array), str(tmp_path / moving))
    run(tmp_path / "a.nii.gz", tmp_path / moving, tmp_path / "out", quiet=True, preset="fast")
    field, _ = io.read_displacement(tmp_path / "out" / "displacement.nii.gz")
    assert field.abs().max() < 1e-3
    warped = io.read_image(tmp_path / "out" / "warped.nii.gz")
    np.testing.assert_allclose(warped.data.numpy(), array, atol=1)
