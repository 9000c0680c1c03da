"""``l2rfast apply`` of PNG, TIFF and JPEG: as of NIfTI with the same numbers, and ITK's."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from typer.testing import CliRunner, Result

from l2rfast import cli

TURN = sitk.Euler2DTransform((18.0, 14.0), 0.2, (1.5, -0.7))
CHANNELS = np.stack([np.add.outer(np.arange(30) * k % 40, np.arange(36) * (3 - k)) for k in range(3)], -1).astype(
    np.uint8
)  # (rows, columns, 3)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["apply", *arguments, "--transform=turn.txt"])


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sitk.WriteTransform(TURN, "turn.txt")
    Image.fromarray(np.zeros((26, 32), np.uint8)).save("reference.png")


def by_itk(pixels: np.ndarray, mode: int = sitk.sitkLinear) -> np.ndarray:
    image = sitk.GetImageFromArray(pixels.astype(np.float64), isVector=pixels.ndim > 2)
    found = sitk.Resample(image, sitk.ReadImage("reference.png"), TURN, mode, 0.0)
    return np.rint(np.swapaxes(sitk.GetArrayFromImage(found), 0, 1))


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_colours_are_channels(suffix: str, interpolation: str) -> None:
    Image.fromarray(CHANNELS).save(f"a.{suffix}")
    arguments = ("--reference=reference.png", f"--interpolation={interpolation}", "--out=warped.nii.gz")
    result = run(f"a.{suffix}", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    found = np.asarray(nib.load("warped.nii.gz").dataobj)
    assert (found.shape, found.dtype.names) == ((32, 26, 1), ("R", "G", "B"))
    theirs = by_itk(
        np.asarray(Image.open(f"a.{suffix}")),
        sitk.sitkLinear if interpolation == "linear" else sitk.sitkNearestNeighbor,
    )
    assert 0.02 < (theirs == 0).all(-1).mean() < 0.5
    for k, name in enumerate("RGB"):
        assert (np.abs(found[name][..., 0] - theirs[..., k]) > 0).mean() < 0.01  # halves are rounded to either
    assert sitk.ReadImage("warped.nii.gz").GetNumberOfComponentsPerPixel() == 3
    # What NIfTI has of the same colours goes the same way.
    stored = np.ascontiguousarray(np.asarray(Image.open(f"a.{suffix}"))).view([(name, "u1") for name in "RGB"])
    nib.save(nib.Nifti1Image(stored[..., 0].T, np.diag([-1.0, -1, 1, 1])), "b.nii.gz")
    assert run("b.nii.gz", *arguments[:2], "--out=again.nii.gz").exit_code == 0
    np.testing.assert_array_equal(nib.load("again.nii.gz").dataobj, found)


@pytest.mark.parametrize(
    ("name", "dtype", "kept"),
    [
        ("a.png", "u1", "u1"),
        ("a.jpg", "u1", "u1"),
        ("a.png", "?", "u1"),
        ("a.tif", "i2", "i4"),  # as Pillow has it
        ("a.tif", ">f2", "f4"),
        ("a.tif", "f8", "f8"),
    ],
)
def test_greys_keep_their_dtype(name: str, dtype: str, kept: str) -> None:
    grey = (CHANNELS[..., 1] > 40 if dtype == "?" else CHANNELS[..., 1]).astype(dtype)
    if name == "a.tif":
        tifffile.imwrite(name, grey, byteorder=">" if dtype[0] == ">" else "<")
    else:
        Image.fromarray(grey).save(name)
    result = run(name, "--reference=reference.png", "--out=warped.nii.gz")
    assert (result.exit_code, result.stderr) == (0, "")
    found = nib.load("warped.nii.gz")
    assert found.get_data_dtype() == kept
    if dtype != "?":
        off = np.abs(
            np.rint(found.get_fdata())[..., 0] - by_itk(np.asarray(Image.open(name)) if name == "a.jpg" else grey)
        )
        assert (off > 0).mean() < 0.01
    assert 0 < np.asarray(found.dataobj).max() <= (1 if dtype == "?" else grey.max())


def test_a_palette_has_numbers_and_transparency_is_not_used() -> None:
    numbers = Image.fromarray(CHANNELS[..., 1] % 4)
    numbers.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    numbers.save("labels.png")
    arguments = ("--reference=reference.png", "--out=warped.nii.gz")
    result = run("labels.png", *arguments, "--interpolation=nearest")
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(np.unique(nib.load("warped.nii.gz").dataobj)) == {0, 1, 2, 3}
    result = run("labels.png", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert "its pixels are numbers in a palette, in which linear makes labels that were not there" in result.stderr
    Image.fromarray(np.concatenate([CHANNELS, CHANNELS[..., :1]], -1)).save("clear.png")
    result = run("clear.png", *arguments)
    assert (result.exit_code, result.stderr) == (0, "l2rfast: warning: image: its transparency is not used\n")
    assert np.asarray(nib.load("warped.nii.gz").dataobj).dtype.names == ("R", "G", "B")


def test_colours_of_more_than_8_bits_are_refused() -> None:
    tifffile.imwrite("a.tif", CHANNELS.astype(np.uint16) * 200, photometric="rgb")
    result = run("a.tif", "--reference=reference.png", "--out=warped.nii.gz")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "image (a.tif): expected colours of 8 bits, as NIfTI has them, got uint16" in result.stderr
