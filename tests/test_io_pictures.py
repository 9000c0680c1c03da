"""PNG, TIFF and JPEG: values as other readers have them, in ITK's place, and what is said of the rest."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image
from runs import refused

from l2rfast import InputError, io
from l2rfast.cli.job import run
from l2rfast.cli.notices import notices

ROWS, COLUMNS = 13, 17
BT601 = [0.299, 0.587, 0.114]


def values(dtype: str = "u1", shape: tuple[int, ...] = (ROWS, COLUMNS), seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).random(shape)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (drawn * 900 - 450).astype(kind)
    info = np.iinfo(kind)
    return (info.min + drawn * (info.max - float(info.min))).astype(kind)


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    """By rows and columns, as the writers have it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = io.as_volume("image", path, dims=(2, 3))
    assert volume.data.dtype == torch.float32
    return volume.data.numpy().T, [str(warning.message).removeprefix("image: ") for warning in caught]


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_png(tmp_path: Path, dtype: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(values(dtype)), str(tmp_path / "a.png"))
    pixels, said = read(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, values(dtype))
    assert not said


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}]
)
def test_tiff(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values(dtype), **options)
    pixels, said = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, values(dtype).astype("f4"))
    assert not said


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    Image.fromarray(values("u2")).save(tmp_path / "a.tiff", compression=compression)
    np.testing.assert_array_equal(read(tmp_path / "a.tiff")[0], values("u2"))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_become_grey_which_is_said(tmp_path: Path, suffix: str, channels: int) -> None:
    colours = values(shape=(ROWS, COLUMNS, channels))
    Image.fromarray(colours).save(tmp_path / f"a{suffix}")
    pixels, said = read(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(pixels, colours[..., :3] @ np.array(BT601), atol=1e-4)
    assert said == ["its transparency is not used, " * (channels == 4) + "its colours are made grey"]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_of_16_bits_in_tiff(tmp_path: Path, planar: str) -> None:
    colours = values("u2", (ROWS, COLUMNS, 3))
    stored = colours if planar == "contig" else np.moveaxis(colours, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    pixels, said = read(tmp_path / "a.tif")
    np.testing.assert_allclose(pixels, colours @ np.array(BT601), rtol=1e-5)
    assert said == ["its colours are made grey"]


def test_colours_of_16_bits_in_png(tmp_path: Path) -> None:
    colours = values("u2", (ROWS, COLUMNS, 3))
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.png"))
    pixels, said = read(tmp_path / "a.png")
    np.testing.assert_allclose(pixels, (colours >> 8) @ np.array(BT601), atol=1e-4)
    assert said == ["of its 16 bits the upper 8 are used, its colours are made grey"]


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype("u1")
    Image.fromarray(smooth).save(tmp_path / "grey.jpg", quality=95)
    pixels, said = read(tmp_path / "grey.jpg")
    np.testing.assert_allclose(pixels, smooth, atol=3)
    assert not said
    colours = np.stack([smooth, 200 - smooth, np.full_like(smooth, 90)], -1)
    Image.fromarray(colours).save(tmp_path / "colours.jpeg", quality=95, subsampling=0)
    pixels, said = read(tmp_path / "colours.jpeg")
    np.testing.assert_allclose(pixels, colours @ np.array(BT601), atol=3)
    assert said == ["its colours are made grey"]
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    np.testing.assert_allclose(read(tmp_path / "print.jpg")[0], colours @ np.array(BT601), atol=6)


def test_greys_that_are_stored_as_colours_are_those_greys(tmp_path: Path) -> None:
    grey = values()
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.png")
    palette = Image.fromarray(grey).convert("P")  # whose palette is of greys
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.stack([grey, grey], -1)).save(tmp_path / "alpha.png")
    Image.fromarray(grey).save(tmp_path / "hole.png", transparency=7)
    clear = ["its transparency is not used"]
    for name, text in (("rgb.png", []), ("palette.png", []), ("alpha.png", clear), ("hole.png", clear)):
        pixels, said = read(tmp_path / name)
        np.testing.assert_array_equal(pixels, grey)
        assert said == text


def palette(path: Path, numbers: np.ndarray, colours: list[int]) -> Path:
    picture = Image.fromarray(numbers.astype("u1"))
    picture.putpalette(colours)
    assert picture.mode == "P"
    picture.save(path)
    return path


COLOURS = [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]


def test_what_many_pictures_have_in_common_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        Image.fromarray(values(shape=(ROWS, COLUMNS, 3), seed=i)).save(tmp_path / f"{i}.png")
    with notices() as said:
        for i in range(3):
            io.as_volume("data", tmp_path / f"{i}.png", dims=(2,))
    assert said == ["data: its colours are made grey"]
    assert capsys.readouterr().err == "l2rfast: warning: data: its colours are made grey\n"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_palette_is_shades_of_an_image_and_numbers_of_labels(tmp_path: Path, suffix: str) -> None:
    numbers = values() % 4
    path = palette(tmp_path / f"a{suffix}", numbers, COLOURS)
    pixels, said = read(path)
    np.testing.assert_allclose(pixels, (np.reshape(COLOURS, (4, 3)) @ np.array(BT601))[numbers], atol=1e-4)
    assert said == ["its colours are made grey"]
    like = io.Volume(torch.rand(COLUMNS, ROWS), np.diag([-1.0, -1, 1, 1]))
    np.testing.assert_array_equal(io.read_labels(path, like).data.numpy().T, numbers)


@pytest.mark.parametrize(("name", "dtype"), [("a.png", "u1"), ("a.png", "u2"), ("a.tif", "u1"), ("a.tif", "i4")])
def test_labels(tmp_path: Path, name: str, dtype: str) -> None:
    numbers = (values() % 40).astype(dtype) * (1 if dtype == "u1" else 100)
    (tifffile.imwrite if name == "a.tif" else lambda p, a: Image.fromarray(a).save(p))(tmp_path / name, numbers)
    for affine in (np.diag([-1.0, -1, 1, 1]), np.diag([2.0, 0.5, 3, 1])):  # a picture does not say where it lies
        like = io.Volume(torch.rand(COLUMNS, ROWS), affine)
        labels = io.read_labels(tmp_path / name, like)
        np.testing.assert_array_equal(labels.data.numpy().T, numbers)
        np.testing.assert_array_equal(labels.affine, affine)
    assert set(io.read_masks(tmp_path / name, like)) == {n - 1 for n in np.unique(numbers).tolist() if n}


def test_labels_that_are_none(tmp_path: Path) -> None:
    like = io.Volume(torch.rand(COLUMNS, ROWS), np.eye(4))
    Image.fromarray(values(shape=(ROWS, COLUMNS, 3))).save(tmp_path / "colours.png")
    Image.fromarray(values()).save(tmp_path / "a.jpg")
    for name, text in (
        ("colours.png", "one number for each pixel, such as that of a label, got colours"),
        ("a.jpg", "JPEG"),
    ):
        with pytest.raises(InputError, match=rf"^labels \(.*{name}\): expected .*{text}"):
            io.read_labels(tmp_path / name, like, "labels")
    flags = values() > 90
    Image.fromarray(flags).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(io.read_labels(tmp_path / "mask.png", like).data.numpy().T, flags)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_picture_lies_where_itk_has_it(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(values()).save(tmp_path / f"a{suffix}")
    seen = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    volume = io.as_volume("a", tmp_path / f"a{suffix}", dims=(2,))
    assert tuple(volume.data.shape) == seen.GetSize() == (COLUMNS, ROWS)
    for voxel in ((0, 0), (16, 0), (0, 12), (5, 7)):
        place = (volume.affine @ [*voxel, 0, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(place, [*voxel, 0])
        assert seen.TransformIndexToPhysicalPoint(voxel) == voxel  # pixels of 1 mm
        if suffix != ".jpg":
            assert volume.data[voxel] == seen[voxel]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"), [(".jpg", {}), (".png", {}), (".tif", {}), (".tif", {"compression": "tiff_lzw"})]
)
def test_a_picture_is_turned_as_its_orientation_says(
    tmp_path: Path, orientation: int, suffix: str, options: dict[str, str]
) -> None:
    smooth = np.add.outer(3 * np.arange(40), np.arange(56)).astype("u1")
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(smooth).save(tmp_path / f"a{suffix}", exif=exif, **options)
    half = np.rot90(smooth, 2)
    seen = [smooth, smooth[:, ::-1], half, smooth[::-1], smooth.T, np.rot90(smooth, -1), half.T, np.rot90(smooth)]
    pixels, said = read(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(pixels, seen[orientation - 1], atol=4)
    assert said == ["it is turned as its orientation says"] * (orientation > 1)
    assert io.read_shape(tmp_path / f"a{suffix}") == pixels.T.shape


def test_pages_and_channels_are_refused(tmp_path: Path) -> None:
    for dtype in ("u1", "f8"):
        tifffile.imwrite(tmp_path / "pages.tif", values(dtype, (5, ROWS, COLUMNS)), photometric="minisblack")
        assert "expected one picture, got 5 pages" in refused(tmp_path / "pages.tif")
    several = values("u2", (ROWS, COLUMNS, 5))
    tifffile.imwrite(tmp_path / "channels.tif", several, photometric="minisblack", planarconfig="contig")
    assert "expected shades of grey or colours, got 5 channels" in refused(tmp_path / "channels.tif")
    frames = [Image.fromarray(values(seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    assert "expected one picture, got 3 pages" in refused(tmp_path / "film.png")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "packed.tif", "float.tif", "colours.tif"])
def test_damaged_files_end_in_a_sentence(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    if name in ("float.tif", "colours.tif"):
        tifffile.imwrite(path, values("f8") if name == "float.tif" else values("u2", (ROWS, COLUMNS, 3)))
    else:
        Image.fromarray(values()).save(path, **({"compression": "tiff_lzw"} if name == "packed.tif" else {}))
    contents = path.read_bytes()
    damaged = [contents[: int(share * len(contents))] for share in (0, 0.1, 0.5, 0.8)]
    damaged += [b"not an image\n" * 50, bytes(1000)]
    for content in damaged:
        path.write_bytes(content)
        assert "the file is empty, damaged or of another kind" in refused(path)
    path.unlink()
    assert "but there is no such file" in refused(path)
    assert capfd.readouterr() == ("", "")


def test_a_picture_under_the_name_of_another_kind_is_read(tmp_path: Path) -> None:
    Image.fromarray(values()).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg")[0], values())


def test_more_pixels_than_pillow_takes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(values()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0], values())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = "expected a picture of fewer pixels: Image size (221 pixels) exceeds limit of 200 pixels"
    assert refused(tmp_path / "a.png").endswith(message)


def test_tifffile_is_named_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values("f8"))
    tifffile.imwrite(tmp_path / "b.tif", values("u2"))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    tifffile.imwrite(tmp_path / "turned.tif", values("u1"), extratags=[(274, "H", 1, 6, True)])
    assert "needs tifffile, which is not here" in refused(tmp_path / "turned.tif")
    assert "needs tifffile, which is not here: pip install tifffile" in refused(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "b.tif")[0], values("u2"))


def test_a_codec_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(values("i4")).save(tmp_path / "a.tif", compression="tiff_lzw")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["SampleFormat"].overwrite(1)  # unsigned
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    message = refused(tmp_path / "a.tif")
    assert "compressed by LZW, needs imagecodecs, which is not here: pip install imagecodecs" in message


def section(shape: tuple[int, int], at: float = 0.0) -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    tissue = np.exp(-3 * (y**2 + (x - at) ** 2)) * (1 + 0.4 * np.sin(9 * x + 5 * y) * np.cos(7 * y))
    return (160 * tissue).clip(0, 255).astype("u1")


def test_itk_resamples_a_picture_by_the_field_as_the_command_does(tmp_path: Path) -> None:
    """Of two sizes, in colours and in 16 bits."""
    fixed, moving = section((60, 72)), section((64, 70), 0.06)
    Image.fromarray(np.stack([fixed, fixed, fixed // 2], -1)).save(tmp_path / "fixed.png")
    tifffile.imwrite(tmp_path / "moving.tif", moving.astype("u2") * 200)
    Image.fromarray((fixed > 90).astype("u1")).save(tmp_path / "labels.png")
    Image.fromarray((moving > 90).astype("u1")).save(tmp_path / "moving_labels.png")
    labels = {"fixed_labels": tmp_path / "labels.png", "moving_labels": tmp_path / "moving_labels.png"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [])
        run(tmp_path / "fixed.png", tmp_path / "moving.tif", tmp_path / "out", quiet=True, preset="fast", **labels)
    report = (tmp_path / "out" / "report.json").read_text()
    assert report.count("its colours are made grey") == 1
    warped = sitk.ReadImage(str(tmp_path / "out" / "warped.nii.gz"))
    assert warped.GetSize() == (72, 60)
    field = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(tmp_path / "out" / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    )
    affine = sitk.ReadTransform(str(tmp_path / "out" / "affine.txt"))
    both = sitk.CompositeTransform([affine, field])
    seen = sitk.ReadImage(str(tmp_path / "moving.tif"), sitk.sitkFloat32)
    again = sitk.GetArrayFromImage(sitk.Resample(seen, warped, both, sitk.sitkLinear))
    inside = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(again[inside], sitk.GetArrayFromImage(warped)[inside], atol=0.01 * 200 * 160)


@pytest.mark.parametrize("shape", [(44, 40, 1), (1, 44, 40), (44, 1, 40)])
def test_a_slice_is_registered_with_itself_in_a_picture(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = section((40, 44))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    affine = np.diag([-1.0, -1, 1, 1])
    flat = shape.index(1)
    affine[:3, :3] = np.insert(affine[:3, :2], flat, affine[:3, 2], axis=1)
    nib.save(nib.Nifti1Image(pixels.T.reshape(shape), affine), tmp_path / "a.nii.gz")
    run(tmp_path / "a.png", tmp_path / "a.nii.gz", tmp_path / "out", quiet=True, preset="fast")
    field, _ = io.read_displacement(tmp_path / "out" / "displacement.nii.gz")
    assert field.shape == (1, 2, 44, 40)
    assert field.abs().max() < 1e-3
