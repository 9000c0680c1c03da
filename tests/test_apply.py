"""``l2rfast apply`` and the commands beside it: ITK resamples to the same values."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_world import affine, oblique, places, smooth
from typer.testing import CliRunner, Result

from l2rfast import cli, register
from l2rfast.data.brains import synthetic_pair
from l2rfast.io import Volume, read_transform, write_affine, write_displacement, write_image

FIXED, MOVING = oblique((20, 24, 22), 0), oblique((26, 21, 18), 1)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def done(*arguments: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")


def scan(dtype: str, *rest: int) -> np.ndarray:
    """Smooth, of the range of its dtype as far as 1000."""
    noise = np.random.default_rng(0).normal(size=(7, 6, 5, *rest))
    for axis, size in enumerate(MOVING.shape):
        noise = np.apply_along_axis(
            lambda line, size=size: np.interp(np.linspace(0, len(line) - 1, size), range(len(line)), line), axis, noise
        )
    top = 1000 if np.dtype(dtype).kind in "fc" else min(1000, np.iinfo(dtype).max)
    low = 0 if np.dtype(dtype).kind == "u" else -top
    return (low + (top - low) * (noise - noise.min()) / np.ptp(noise)).astype(dtype)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros(FIXED.shape, np.float32), FIXED.affine), "fixed.nii.gz")
    nib.save(nib.Nifti1Image(scan("int16"), MOVING.affine), "moving.nii.gz")
    write_displacement("field.nii.gz", smooth(FIXED.shape, 0.5), FIXED.affine)
    write_affine("affine.txt", affine().array)
    return tmp_path


CHAIN = ("--reference=fixed.nii.gz", "--transform=field.nii.gz", "--transform=affine.txt")


def chain() -> sitk.Transform:
    field = sitk.ReadImage("field.nii.gz", sitk.sitkVectorFloat64)
    return sitk.CompositeTransform([sitk.ReadTransform("affine.txt"), sitk.DisplacementFieldTransform(field)])


def by_itk(image: sitk.Image, mode: int = sitk.sitkLinear, outside: float = 0.0) -> np.ndarray:
    warped = sitk.Resample(image, sitk.ReadImage("fixed.nii.gz"), chain(), mode, outside)
    array: np.ndarray = sitk.GetArrayFromImage(warped).T
    return array


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_values_keep_their_dtype_and_are_itks(dtype: str, files: Path) -> None:
    nib.save(nib.Nifti1Image(scan(dtype), MOVING.affine, dtype=dtype), "moving.nii.gz")
    done("apply", "moving.nii.gz", *CHAIN, "--out=warped.nii.gz")
    found: nib.Nifti1Image = nib.load("warped.nii.gz")
    assert found.get_data_dtype() == dtype
    np.testing.assert_allclose(found.affine, FIXED.affine, atol=1e-5)
    # SimpleITK 2.5.7 cuts integers towards zero; of float64 it gives what is to be rounded.
    theirs = by_itk(sitk.Cast(sitk.ReadImage("moving.nii.gz"), sitk.sitkFloat64))
    theirs = theirs if np.dtype(dtype).kind == "f" else np.rint(theirs)
    assert 0.2 < (theirs != 0).mean() < 0.9
    # A value that lies halfway between two integers may be rounded to either.
    off = np.abs(np.asarray(found.dataobj, np.float64) - theirs)
    assert off.max() <= (0.01 if np.dtype(dtype).kind == "f" else 1)
    assert (off > 0.01).mean() < 1e-3


def test_what_is_outside_has_the_value_that_is_asked_for(files: Path) -> None:
    done("apply", "moving.nii.gz", *CHAIN, "--outside=-500", "--interpolation=nearest", "--out=warped.nii.gz")
    theirs = by_itk(sitk.ReadImage("moving.nii.gz"), sitk.sitkNearestNeighbor, -500)
    assert (np.asarray(nib.load("warped.nii.gz").dataobj) != theirs).mean() < 1e-3
    assert (theirs == -500).mean() > 0.1


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_series_goes_volume_by_volume(suffix: str, files: Path) -> None:
    data = scan("int16", 2, 3)
    stored = nib.Nifti1Image(data, MOVING.affine)
    stored.header.set_zooms((*stored.header.get_zooms()[:3], 2.5, 1))
    stored.header.set_xyzt_units("mm", "sec")
    nib.save(stored, f"series{suffix}")
    done("apply", f"series{suffix}", *CHAIN, f"--out=warped{suffix}")
    found = nib.load(f"warped{suffix}")
    assert found.shape == (*FIXED.shape, 2, 3)
    assert (found.header.get_zooms()[3], found.header.get_xyzt_units()) == (2.5, ("mm", "sec"))
    for i, j in np.ndindex(2, 3):
        nib.save(nib.Nifti1Image(np.ascontiguousarray(data[..., i, j]), MOVING.affine), "one.nii.gz")
        done("apply", "one.nii.gz", *CHAIN, "--out=alone.nii.gz")
        np.testing.assert_array_equal(found.dataobj[..., i, j], nib.load("alone.nii.gz").dataobj)


def test_scaled_values_keep_their_scale(files: Path) -> None:
    data = scan("int16")
    stored = nib.Nifti1Image(data, MOVING.affine)
    stored.header.set_slope_inter(0.25, -3)
    nib.save(stored, "moving.nii.gz")  # which multiplies nothing: the array is as it is stored
    raw = nib.load("moving.nii.gz")
    done("apply", "moving.nii.gz", *CHAIN, "--out=warped.nii.gz", "--outside=-3")
    found = nib.load("warped.nii.gz")
    assert (found.dataobj.slope, found.dataobj.inter) == (raw.dataobj.slope, raw.dataobj.inter) != (1, 0)
    theirs = by_itk(sitk.ReadImage("moving.nii.gz"), outside=-3)
    np.testing.assert_allclose(found.get_fdata(), theirs, atol=0.13)


def test_complex_numbers_and_colours_are_channels(files: Path) -> None:
    data = scan("float32", 3)
    complex_ = (data[..., 0] + 1j * data[..., 1]).astype(np.complex64)
    nib.save(nib.Nifti1Image(complex_, MOVING.affine), "complex.nii.gz")
    colours = np.empty(MOVING.shape, [(name, "u1") for name in "RGB"])
    for k, name in enumerate("RGB"):
        colours[name] = scan("uint8", 3)[..., k]
    nib.save(nib.Nifti1Image(colours, MOVING.affine), "colours.nii.gz")
    for k in range(3):
        for kind, values in (("parts", data), ("grey", scan("uint8", 3))):
            nib.save(nib.Nifti1Image(np.ascontiguousarray(values[..., k]), MOVING.affine), f"{kind}{k}.nii.gz")
            done("apply", f"{kind}{k}.nii.gz", *CHAIN, f"--out=warped_{kind}{k}.nii.gz")
    for kind in ("complex", "colours"):
        done("apply", f"{kind}.nii.gz", *CHAIN, f"--out=warped_{kind}.nii.gz")
    found = np.asarray(nib.load("warped_complex.nii.gz").dataobj)
    np.testing.assert_array_equal(found.real, nib.load("warped_parts0.nii.gz").dataobj)
    np.testing.assert_array_equal(found.imag, nib.load("warped_parts1.nii.gz").dataobj)
    for k, name in enumerate("RGB"):
        np.testing.assert_array_equal(
            np.asarray(nib.load("warped_colours.nii.gz").dataobj)[name], nib.load(f"warped_grey{k}.nii.gz").dataobj
        )


def test_back_again(files: Path) -> None:
    """By one file of the inverse of both."""
    done("compose", "field.nii.gz", "affine.txt", "--fixed=fixed.nii.gz", "--out=both.nii.gz")
    done("invert", "both.nii.gz", "--moving=moving.nii.gz", "--fixed=fixed.nii.gz", "--out=inverse.nii.gz")
    inverse = read_transform("inverse.nii.gz")
    assert inverse.grid is not None
    assert inverse.grid.agrees(MOVING)
    field, linear = read_transform("field.nii.gz"), read_transform("affine.txt")
    at = places(MOVING)
    at = at[at.norm(dim=1) < 6]  # within the field
    np.testing.assert_allclose(inverse(at), field.inverse(linear.inverse(at)), atol=2e-3)


def test_the_change_of_volume_is_written(files: Path) -> None:
    done("jacobian", "field.nii.gz", "--out=change.nii.gz", "--no-log")
    theirs = sitk.DisplacementFieldJacobianDeterminant(along_the_axes())
    inner = (slice(2, -2),) * 3
    found = np.asarray(nib.load("change.nii.gz").dataobj)
    np.testing.assert_allclose(found[inner], sitk.GetArrayFromImage(theirs).T[inner], atol=1e-4)


def along_the_axes() -> sitk.Image:
    """The field in voxels on a plain grid: on another one ITK's filter is wrong."""
    vectors = smooth(FIXED.shape, 0.5)[0].permute(3, 2, 1, 0).double().contiguous().numpy()
    return sitk.GetImageFromArray(vectors, isVector=True)


def test_a_transform_is_described(files: Path) -> None:
    result = run("describe", "inverse:field.nii.gz")
    assert result.exit_code == 0
    assert "places of fixed -> places of moving, in RAS" in result.stdout
    assert "the inverse of a displacement field of 20 x 24 x 22 voxels" in result.stdout
    assert "0 of 10560 voxels fold" in result.stdout
    turn = np.eye(4)
    turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    write_affine("turn.txt", turn)
    assert "rigid: turns by 53.13 degrees" in run("describe", "turn.txt").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("apply", "moving.nii.gz", "--reference=fixed.nii.gz", "--out=a.png"), "a.png: expected a name that ends wi"),
        (("apply", "no.nii.gz", "--reference=fixed.nii.gz", "--out=a.nii.gz"), "there is no such file"),
        (("apply", "moving.nii.gz", "--reference=no.nii.gz", "--out=a.nii.gz"), "--reference (no.nii.gz): expected"),
        (("apply", "moving.nii.gz", *CHAIN, "--interpolation=best", "--out=a.nii.gz"), "--interpolation: expected one"),
        (("apply", "moving.nii.gz", *CHAIN, "--out=no/a.nii.gz"), "no/a.nii.gz: expected a file that can be written"),
        (("apply", "moving.nii.gz", *CHAIN, "--outside=0.5", "--out=a.nii.gz"), "expected a number that the image"),
        (
            ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", "--transform=.", "--out=a.nii.gz"),
            "got a folder: name",
        ),
        (
            ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", "--transform=ants:a.h5", "--out=a.nii.gz"),
            "got 'ants'",
        ),
        (("jacobian", "field.nii.gz", "--out=a.png"), "error: a.png: expected a name that ends with .nii"),
        (("invert", "affine.txt", "--out=a.xyz"), "a.xyz: expected a name that ends with"),
        (("convert", "field.nii.gz", "--out=a.txt"), "expected a linear map"),
        (("convert", "affine.txt", "--to=best", "--out=a.txt"), "--to: expected one of"),
        (("convert", "affine.txt", "--out=a.nii.gz"), "expected the fixed image, at whose voxels"),
        (("jacobian", "affine.txt", "--out=a.nii.gz"), "expected the fixed image, at whose voxels"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments: tuple[str, ...], said: str, files: Path) -> None:
    before = {file: file.read_bytes() for file in files.iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert {file: file.read_bytes() for file in files.iterdir()} == before


def test_a_damaged_series_leaves_nothing_behind(files: Path) -> None:
    nib.save(nib.Nifti1Image(scan("int16", 4), MOVING.affine), "series.nii")
    Path("series.nii").write_bytes(Path("series.nii").read_bytes()[:-100])
    result = run("apply", "series.nii", *CHAIN, "--out=warped.nii")
    assert result.exit_code == 2
    assert "image (series.nii): expected a NIfTI image, but the file is empty, damaged" in result.stderr
    assert sorted(file.name for file in files.iterdir() if "warped" in file.name) == []


def test_what_is_far_away_is_said(files: Path) -> None:
    away = MOVING.affine.copy()
    away[:3, 3] += 500
    nib.save(nib.Nifti1Image(scan("int16"), away), "away.nii.gz")
    result = run("apply", "away.nii.gz", "--reference=fixed.nii.gz", "--out=warped.nii.gz")
    assert result.exit_code == 0
    assert "image: nothing of it reaches the reference" in result.stderr
    write_displacement("short.nii.gz", smooth((20, 24, 10), 0.5), FIXED.affine)
    result = run("apply", "moving.nii.gz", "--reference=fixed.nii.gz", "--transform=short.nii.gz", "--out=w.nii.gz")
    assert "--transform: fields cover 50 % of the reference, and go on beyond as at their border" in result.stderr


def test_what_register_wrote_takes_other_images_there_and_back(files: Path) -> None:
    """As `register` itself does: labels by its own files, and points by the transform of the result."""
    pair = synthetic_pair(40)
    header = np.diag([2.2, 2, 1.9, 1])
    header[:3, 3] = 6, -4, 5
    write_image("a.nii.gz", Volume(pair["fixed"], np.diag([2.0, 2, 2, 1])))
    write_image("b.nii.gz", Volume(pair["moving"], header))
    write_image("labels.nii.gz", Volume((pair["moving"] > 0.3).byte(), header))
    write_image("fixed_labels.nii.gz", Volume((pair["fixed"] > 0.3).byte(), np.diag([2.0, 2, 2, 1])))
    labels = ("--fixed-labels=fixed_labels.nii.gz", "--moving-labels=labels.nii.gz")
    more = ("--init=moments", "--preset=fast", *labels, "--fixed-warped", "--quiet")
    assert run("register", "a.nii.gz", "b.nii.gz", "--out=out", *more).exit_code == 0
    there = ("--transform=out/displacement.nii.gz", "--transform=out/affine.txt")
    back = ("--transform=inverse:out/affine.txt", "--transform=out/inverse_displacement.nii.gz")
    for image, grid, chain, expected, options in (
        ("b", "a", there, "out/warped", ()),
        ("a", "b", back, "out/fixed_warped", ()),
        ("labels", "a", there, "out/warped_labels", ("--interpolation=nearest",)),
    ):
        run("apply", f"{image}.nii.gz", f"--reference={grid}.nii.gz", *chain, *options, "--out=again.nii.gz")
        found, wanted = (np.asarray(nib.load(f"{name}.nii.gz").dataobj) for name in ("again", expected))
        inner = (slice(8, -8),) * 3
        assert found.dtype == wanted.dtype
        assert (np.abs(found - wanted)[inner] > 1e-3).mean() < 1e-3
    result = register("a.nii.gz", "b.nii.gz", preset="fast", init="moments")
    voxels = torch.tensor([[10.0, 20, 15], [25, 12, 30]], dtype=torch.float64)
    world = torch.from_numpy(voxels.numpy() @ result.fixed.affine[:3, :3].T + result.fixed.affine[:3, 3])
    there_ = torch.from_numpy(result.points_in_moving(voxels).numpy() @ header[:3, :3].T + header[:3, 3])
    np.testing.assert_allclose(result.transform(world), there_, atol=1e-3)


@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [("linear", sitk.sitkLinear), ("cubic", sitk.sitkBSpline), ("sinc", sitk.sitkLanczosWindowedSinc)],
)
@pytest.mark.parametrize("through", ["field and matrix", "matrix"])
def test_interpolations_are_itks(interpolation: str, mode: int, through: str, files: Path) -> None:
    data = scan("float32")
    nib.save(nib.Nifti1Image(data, MOVING.affine), "moving.nii.gz")
    parts = CHAIN if through == "field and matrix" else (CHAIN[0], CHAIN[2])
    done("apply", "moving.nii.gz", *parts, f"--interpolation={interpolation}", "--out=warped.nii.gz")
    transform = chain() if through == "field and matrix" else sitk.ReadTransform("affine.txt")
    images = [sitk.ReadImage(f"{name}.nii.gz", sitk.sitkFloat64) for name in ("moving", "fixed")]
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform, mode, 0.0)).T
    off = np.abs(np.asarray(nib.load("warped.nii.gz").dataobj) - theirs)
    assert 0.2 < (theirs != 0).mean() < 0.9
    assert np.quantile(off, 0.999) < 1e-4 * np.ptp(data)  # but where rounding decides what is outside


def test_whole_floats_vote_and_others_do_not(files: Path) -> None:
    labels = np.digitize(scan("float32"), [0, 300])
    for dtype in ("int16", "float64"):
        nib.save(nib.Nifti1Image(labels.astype(dtype), MOVING.affine), f"{dtype}.nii.gz")
        done("apply", f"{dtype}.nii.gz", *CHAIN, "--interpolation=vote", f"--out=warped_{dtype}.nii.gz")
    whole, floats = (nib.load(f"warped_{dtype}.nii.gz") for dtype in ("int16", "float64"))
    assert floats.get_data_dtype() == np.float64
    np.testing.assert_array_equal(whole.dataobj, floats.dataobj)
    nib.save(nib.Nifti1Image(labels + 0.5, MOVING.affine), "half.nii.gz")
    result = run("apply", "half.nii.gz", *CHAIN, "--interpolation=vote", "--out=no.nii.gz")
    assert (result.exit_code, "of numbers that are not whole" in result.stderr) == (2, True)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
def test_labels_vote_by_linear_weights(dtype: str, files: Path) -> None:
    labels = np.digitize(scan("float32"), [-400, 0, 300]).astype(dtype) * 7
    nib.save(nib.Nifti1Image(labels, MOVING.affine), "labels.nii.gz")
    done("apply", "labels.nii.gz", *CHAIN, "--interpolation=vote", "--outside=7", "--out=warped.nii.gz")
    found = nib.load("warped.nii.gz")
    assert found.get_data_dtype() == dtype
    known = np.unique(labels)
    shares = []
    for label in known:
        nib.save(nib.Nifti1Image((labels == label).astype(np.float64), MOVING.affine), "one.nii.gz")
        shares.append(by_itk(sitk.ReadImage("one.nii.gz")))
    inside = np.sum(shares, 0) > 0.5
    clear = np.diff(np.sort(shares, 0)[-2:], axis=0)[0] > 1e-4
    values = np.asarray(found.dataobj)
    np.testing.assert_array_equal(values[inside & clear], known[np.argmax(shares, 0)][inside & clear])
    assert (values[~inside] == 7).mean() > 0.99
    assert inside.mean() > 0.2


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "vote", "cubic"])
def test_scaled_integers_of_which_none_is_zero_have_the_nearest_outside(interpolation: str, files: Path) -> None:
    stored = np.random.default_rng(0).integers(-9, 9, MOVING.shape).astype(np.int8)
    image = nib.Nifti1Image(stored, MOVING.affine)
    image.header.set_slope_inter(0.75, 0.25)
    nib.save(image, "scaled.nii.gz")
    done("apply", "scaled.nii.gz", *CHAIN, f"--interpolation={interpolation}", "--out=warped.nii.gz")
    values = np.asarray(nib.load("warped.nii.gz").dataobj)
    assert values[0, 0, 0] == 0.25
    assert np.unique((values - 0.25) / 0.75 % 1) == 0
    if interpolation in ("nearest", "vote"):
        done(
            "apply",
            "scaled.nii.gz",
            "--reference=scaled.nii.gz",
            "--out=same.nii.gz",
            f"--interpolation={interpolation}",
        )
        np.testing.assert_array_equal(nib.load("same.nii.gz").dataobj, nib.load("scaled.nii.gz").dataobj)
    result = run("apply", "scaled.nii.gz", *CHAIN, "--outside=97", "--out=no.nii.gz")
    assert (result.exit_code, "scaled, from -95.75 to 95.5, holds, got 97" in result.stderr) == (2, True)


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
@pytest.mark.parametrize(
    ("dtype", "inter", "end"), [("int8", 200, 104), ("int16", -40000, -15424.75), ("uint64", 3, 3)]
)
def test_scaled_integers_without_0_end_at_what_is_nearest_to_it(
    interpolation: str, dtype: str, inter: float, end: float, files: Path
) -> None:
    stored = nib.Nifti1Image(
        np.random.default_rng(0).integers(0, 9, MOVING.shape).astype(dtype), MOVING.affine, dtype=dtype
    )
    stored.header.set_slope_inter(0.75, inter)
    nib.save(stored, "scaled.nii.gz")
    arguments = ("apply", "scaled.nii.gz", *CHAIN, f"--interpolation={interpolation}", "--out=warped.nii.gz")
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert f"warning: image: it is {end:g} where it ends, as its {dtype}, scaled, from" in result.stderr
    values = np.asarray(nib.load("warped.nii.gz").dataobj)
    assert values[0, 0, 0] == end
    assert (values == end).mean() < 0.9
    result = run(*arguments, "--outside=0")
    assert (result.exit_code, "holds, got 0" in result.stderr) == (2, True)


def test_of_label_maps_it_is_said_that_labels_come_up_that_were_not_there(files: Path) -> None:
    for intent, dtype in ((1002, "uint8"), (1002, "float32"), (0, "uint8")):
        image = nib.Nifti1Image(np.digitize(scan("float32"), [0, 300]).astype(dtype), MOVING.affine)
        image.header["intent_code"] = intent
        nib.save(image, "labels.nii.gz")
        for interpolation in ("linear", "cubic", "sinc", "nearest", "vote"):
            arguments = ("labels.nii.gz", *CHAIN, "--out=warped.nii.gz", f"--interpolation={interpolation}")
            if (intent, dtype) == (1002, "uint8") and interpolation not in ("nearest", "vote"):
                result = run("apply", *arguments)
                assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
                assert f"it is a label map, in which {interpolation} makes labels that" in result.stderr
            else:
                done("apply", *arguments)


@pytest.mark.parametrize("interpolation", ["nearest", "vote"])
def test_labels_are_all_that_their_dtype_holds(interpolation: str, files: Path) -> None:
    for dtype in ("uint8", "int8", "uint16", "uint32", "int64", "uint64"):
        ends = np.iinfo(dtype)
        labels = np.where(scan("float32") > 0, ends.max, ends.min).astype(dtype)
        nib.save(nib.Nifti1Image(labels, MOVING.affine, dtype=dtype), "labels.nii")
        outside = 2 ** (8 * ends.dtype.itemsize - 1) if ends.min == 0 else ends.min
        arguments = ("labels.nii", *CHAIN, f"--interpolation={interpolation}", f"--outside={outside}")
        done("apply", *arguments, "--out=warped.nii")
        assert set(np.unique(nib.load("warped.nii").dataobj)) == {ends.max, ends.min, outside}


@pytest.mark.parametrize("value", ["nan", "inf", "1e39", "0.5", "256"])
def test_what_is_outside_has_to_be_a_number_of_the_image(value: str, files: Path) -> None:
    fits = {"uint8": (), "float32": ("nan", "inf", "0.5", "256"), "float64": ("nan", "inf", "1e39", "0.5", "256")}
    for dtype, held in fits.items():
        nib.save(nib.Nifti1Image(np.ones(MOVING.shape, dtype), MOVING.affine), "ones.nii")
        result = run("apply", "ones.nii", *CHAIN, f"--outside={value}", "--out=warped.nii")
        if value in held:
            assert result.exit_code == 0
            assert np.asarray(nib.load("warped.nii").dataobj)[0, 0, 0] == pytest.approx(float(value), nan_ok=True)
        else:
            assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
            assert f"expected a number that the image's {dtype} holds, got {float(value):g}" in result.stderr


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("apply", f"{LONG}.nii", "--reference=fixed.nii.gz", "--out=a.nii"),
        ("apply", "moving.nii.gz", f"--reference={LONG}.nii", "--out=a.nii"),
        ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", f"--transform={LONG}.txt", "--out=a.nii"),
        ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", f"--transform=itk:{LONG}", "--out=a.nii"),
        ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", f"--transform=at:{LONG}", "--out=a.nii"),
        ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", f"--out={LONG}.nii"),
        ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", "--transform=", "--out=a.nii"),
        ("describe", f"{LONG}.txt"),
        ("invert", "field.nii.gz", f"--out={LONG}.nii"),
        ("jacobian", "field.nii.gz", f"--out={LONG}.nii"),
        ("convert", "infinite.txt", "--out=a.txt"),
        ("invert", "hole.nii.gz", "--out=a.nii"),
        ("apply", "moving.nii.gz", "--reference=fixed.nii.gz", "--transform=inverse:hole.nii.gz", "--out=a.nii"),
        ("apply-points", f"{LONG}.csv", "--transform=affine.txt", "--out=a.csv"),
        ("apply-points", "deep.mrk.json", "--transform=affine.txt", "--out=a.mrk.json"),
        ("apply-points", "other.trk", "--transform=affine.txt", "--out=a.trk"),
        ("apply", "moving.nii.gz", "--reference=vast.nii", "--transform=field.nii.gz", "--out=a.nii"),
    ],
)
def test_what_breaks_libraries_is_one_sentence(arguments: tuple[str, ...], files: Path) -> None:
    Path("deep.mrk.json").write_text("[" * 100000)
    Path("other.trk").write_text("mrtrix tracks\ndatatype: Float32LE\nfile: . 67\nEND\n")
    Path("infinite.txt").write_text(Path("affine.txt").read_text().replace("Parameters: ", "Parameters: inf "))
    hole = smooth(FIXED.shape, 0.5)
    hole[0, 0, 9, 9, 9] = torch.nan
    write_displacement("hole.nii.gz", hole, FIXED.affine)
    vast = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).to_bytes()
    Path("vast.nii").write_bytes(vast[:42] + np.full(3, 32767, "<i2").tobytes() + vast[48:])
    before = set(files.iterdir())
    result = run(*arguments)
    said = result.stderr.splitlines()
    assert (result.exit_code, len([line for line in said if line.startswith("l2rfast: error: ")])) == (2, 1)
    assert all(line.startswith("l2rfast: ") for line in said)
    assert set(files.iterdir()) == before


def test_a_field_with_a_hole_is_told(files: Path) -> None:
    hole = smooth(FIXED.shape, 0.5)
    hole[0, 0, 9, 9, 9] = torch.nan
    write_displacement("hole.nii.gz", hole, FIXED.affine)
    nib.save(nib.Nifti1Image(np.ones(FIXED.shape, np.float32), FIXED.affine), "ones.nii")
    result = run(
        "apply", "ones.nii", "--reference=fixed.nii.gz", "--transform=hole.nii.gz", "--out=a.nii", "--outside=7"
    )
    assert (result.exit_code, "not finite at 1 of 10560 voxels" in result.stderr) == (0, True)
    assert np.asarray(nib.load("a.nii").dataobj)[9, 9, 9] == 7


@pytest.mark.parametrize("shape", [(8,), (8, 9), (8, 9, 1), (1, 9, 8), (8, 1, 9), (1, 1, 1)])
@pytest.mark.parametrize("interpolation", ["linear", "cubic", "sinc"])
def test_an_image_of_any_shape_stays_as_it_is_on_its_own_grid(
    shape: tuple[int, ...], interpolation: str, files: Path
) -> None:
    values = np.random.default_rng(0).random(shape, np.float32)
    nib.save(nib.Nifti1Image(values, FIXED.affine), "image.nii")
    done("apply", "image.nii", "--reference=image.nii", f"--interpolation={interpolation}", "--out=same.nii")
    found = np.asarray(nib.load("same.nii").dataobj)
    np.testing.assert_allclose(found.reshape(shape), values, atol=1e-5)
