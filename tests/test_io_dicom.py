"""DICOM series lie where their slices say, with the values of SimpleITK; what is none is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from formats import CORNERS, OBLIQUE, SHAPE, itk_image, places, series, values
from runs import refused

from l2rfast import io
from l2rfast.errors import InputWarning

pytestmark = pytest.mark.usefixtures("same_locale")


def test_a_dicom_series_lies_where_its_slices_say(tmp_path: Path) -> None:
    folder = series(tmp_path / "mr", values())
    volume = io.read_image(folder)
    np.testing.assert_array_equal(volume.data.numpy(), values())
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-6)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    seen = reader.Execute()
    itk = [seen.TransformIndexToPhysicalPoint(voxel) for voxel in CORNERS] * np.array([-1, -1, 1])
    np.testing.assert_allclose(places(volume), itk, atol=1e-6)
    labels = io.read_labels(series(tmp_path / "labels", np.abs(values()) % 5), volume)
    np.testing.assert_array_equal(labels.data.numpy(), np.abs(values()) % 5)


def test_a_tilted_series_lies_where_its_slices_say(tmp_path: Path) -> None:
    tilted = OBLIQUE.copy()
    tilted[:3, 2] += 0.3 * OBLIQUE[:3, 1]
    at = np.array([(tilted @ [0, 0, k, 1])[:3] for k in range(7)])
    volume = io.read_image(series(tmp_path / "ct", values(), places=at))
    np.testing.assert_allclose(volume.affine, tilted, atol=1e-6)


def test_slices_are_scaled_each_by_its_own_slope(tmp_path: Path) -> None:
    slopes = ["1 ", ".5", "2 ", ".7", "3 ", ".2", "1 "]
    folder = series(tmp_path / "pet", values(), slopes=slopes)
    wanted = values() * np.array(slopes, float)
    np.testing.assert_allclose(io.read_image(folder).data.numpy(), wanted, rtol=1e-6)


def test_one_dicom_file_is_a_slice(tmp_path: Path) -> None:
    folder = series(tmp_path / "mr", values((9, 8, 1)))
    for path in (folder, *folder.iterdir()):
        volume = io.as_volume("image", path, dims=(2, 3))
        np.testing.assert_array_equal(volume.data.numpy(), values((9, 8, 1))[..., 0])
        np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-6)


def test_what_is_no_dicom_in_a_folder_is_said(tmp_path: Path) -> None:
    folder = series(tmp_path / "mr", values())
    (folder / "notes.txt").write_text("notes " * 100)
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / ".DS_Store").write_bytes(b"1")
    with pytest.warns(InputWarning) as caught:
        assert io.read_image(folder).data.shape == SHAPE
    assert [str(w.message) for w in caught] == [f"image ({folder}): not used, as not of its series: notes.txt"]


def test_a_report_beside_a_series_is_no_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "mr", values())

    def element(group: int, number: int, text: str) -> bytes:
        content = text.encode() + b"\0" * (len(text) % 2)
        return struct.pack("<HHI", group, number, len(content)) + content

    elements = [(8, 0x16, "1.2.840.10008.5.1.4.1.1.88.11"), (8, 0x18, "1.2.9"), (8, 0x60, "SR")]
    elements += [(32, 0xD, "1.2.3"), (32, 0xE, "1.2.8")]
    firsts = [(2, b"1.2.840.10008.5.1.4.1.1.88.11\0"), (0x10, b"1.2.840.10008.1.2\0")]
    meta = b"".join(struct.pack("<HH2sH", 2, number, b"UI", len(text)) + text for number, text in firsts)
    head = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta
    (folder / "report.dcm").write_bytes(head + b"".join(element(*each) for each in elements))
    with pytest.warns(InputWarning, match=r"not used, as not of its series: report\.dcm"):
        assert io.read_image(folder).data.shape == SHAPE
    alone = tmp_path / "alone"
    alone.mkdir()
    (folder / "report.dcm").rename(alone / "report.dcm")
    assert "expected a DICOM series in a folder" in refused(alone)


def test_what_is_refused_of_dicom(tmp_path: Path) -> None:
    two = series(tmp_path / "two", values(), description="T1 axial")
    series(two, values(), uid="1.2.3.5", description="T2 axial", prefix="other")
    message = refused(two)
    assert "of its own, got 2 of them: " in message
    assert "1.2.3.4 (T1 axial)" in message
    assert "1.2.3.5 (T2 axial)" in message
    for file in two.glob("other*"):
        file.write_bytes(file.read_bytes().replace(b"T2 axial", b"T2 \xe9\xe8 al"))  # Latin-1
    assert "1.2.3.5 (T2 \ufffd\ufffd al)" in refused(two)
    gap = series(tmp_path / "gap", values(), skip=[3])
    assert "equal distances, got 2.2 to 4.4 mm: some may be missing" in refused(gap)
    twice = series(tmp_path / "twice", values())
    series(twice, values(), prefix="again")
    assert "several slices lie at one place, 14 slices in all" in refused(twice)
    turned = series(tmp_path / "turned", values((9, 8, 2)))
    series(turned, values((9, 8, 2)), OBLIQUE[:, [1, 0, 2, 3]], prefix="turned")
    assert "one size, spacing and orientation, but its 4 differ" in refused(turned)
    cut = series(tmp_path / "cut", values())
    last = sorted(cut.iterdir())[-1]
    for length in (len(last.read_bytes()) // 2, 300, 50, 0):
        last.write_bytes(last.read_bytes()[:length])
        assert f"but damaged is {last.name}" in refused(cut)
    (tmp_path / "empty").mkdir()
    assert "expected a DICOM series in a folder, but it is empty" in refused(tmp_path / "empty")
    colours = sitk.GetImageFromArray(np.zeros((1, 8, 9, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "colours.dcm"))
    assert "expected one number for each voxel, got 3" in refused(tmp_path / "colours.dcm")
    sitk.WriteImage(itk_image(values().astype("u1")), str(tmp_path / "frames.dcm"))
    assert "expected one slice in a file, got 7 frames" in refused(tmp_path / "frames.dcm")
