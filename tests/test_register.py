"""The main job: two images in, a displacement field and its files out."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from runs import PATIENCE, invoke, until

import l2rfast
from l2rfast.data.brains import STRUCTURES, real_pair, synthetic_pair
from l2rfast.errors import InputError, InputWarning
from l2rfast.io import Volume, read_displacement, read_image
from l2rfast.methods.discrete.options import PRESETS
from l2rfast.methods.result import Registration
from l2rfast.metrics import dice

FLAGS = "--fixed-warped", "--jacobian"
SMALL = {"iterations": 5, "full_iterations": 0}


def mean_dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.mean(list(dice(a, b, [label for label in STRUCTURES if (a == label).any()]).values())))


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from l2rfast.cli import main; main()", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, **options)  # type: ignore[call-overload]


def save(path: Path, data: torch.Tensor | np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(np.asarray(data), np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture(scope="module")
def pair() -> dict[str, torch.Tensor]:
    return synthetic_pair(64)


@pytest.fixture
def brains(real_data: Path) -> dict[str, torch.Tensor]:
    return real_pair()


@pytest.mark.parametrize(("preset", "least"), [("fast", 0.745), ("default", 0.77), ("accurate", 0.77)])
def test_real_brains(brains: dict[str, torch.Tensor], preset: str, least: float) -> None:
    result = l2rfast.register(brains["fixed"], brains["moving"], preset=preset)
    labels = result.warp(brains["moving_labels"], mode="nearest")
    assert mean_dice(brains["fixed_labels"], labels) >= least
    for field in (result.displacement, result.inverse):
        assert l2rfast.digital_jacobian(field).min() > 0
    assert result.inverse_residual < 0.03  # in both orders


def test_on_one_grid_a_displacement_stays_what_it_is() -> None:
    image, disp = torch.rand(9, 8, 7), torch.randn(1, 3, 9, 8, 7)
    volume = Volume(image, oblique((1.0, 1.3, 0.8), 1))
    result = Registration(disp, 0.5 - disp, volume, volume, {}, {})
    expected = l2rfast.warp(image[None, None], disp, padding="zeros")[0, 0]
    assert torch.equal(result.warp(image, outside=0.0), expected)
    lengths = [
        float(l2rfast.compose(a.double(), b.double()).norm(dim=1).mean())
        for a, b in ((disp, result.inverse), (result.inverse, disp))
    ]
    assert result.inverse_residual == pytest.approx(max(lengths), rel=1e-6)


def test_same_bits_for_one_and_two_threads(brains: dict[str, torch.Tensor]) -> None:
    # Odd sizes, so that the shares of the threads end inside vectors.
    fixed, moving = (brains[k][:101, :113, :125].contiguous() for k in ("fixed", "moving"))
    options = {**SMALL, "full_iterations": 2}
    one, two = (l2rfast.register(fixed, moving, threads=n, **options) for n in (1, 2))
    assert torch.equal(one.displacement, two.displacement)
    assert torch.equal(one.warp(moving), two.warp(moving))


def test_recovers_a_known_deformation(pair: dict[str, torch.Tensor]) -> None:
    result = l2rfast.register(pair["fixed"], pair["moving"])
    before = mean_dice_all(pair["fixed_labels"], pair["moving_labels"])
    after = mean_dice_all(pair["fixed_labels"], result.warp(pair["moving_labels"], mode="nearest"))
    assert before < 0.89 < 0.93 < after


def mean_dice_all(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.mean(list(dice(a, b).values())))


@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_other_contrast(pair: dict[str, torch.Tensor], metric: str) -> None:
    inverted = 1000 - 400 * pair["moving"]
    result = l2rfast.register(pair["fixed"], inverted, metric=metric)
    assert mean_dice_all(pair["fixed_labels"], result.warp(pair["moving_labels"], mode="nearest")) > 0.92


def oblique(spacing: tuple[float, float, float], seed: int) -> np.ndarray:
    """An affine with rotated, permuted and flipped axes."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = q * spacing
    affine[:3, 3] = (-10, 20, 5)
    return affine


def test_simpleitk_applies_the_displacement_field(pair: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Oblique grids of different spacing and shape: ITK must get our warped image from the original files."""
    a, b = oblique((1.0, 1.3, 0.8), 1), np.eye(4)
    angle = np.radians(4)
    tilt = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    b[:3, :3] = tilt @ a[:3, :3] * (1.05, 0.95, 1.05)
    centre = np.array([32, 32, 32])
    b[:3, 3] = a[:3, :3] @ centre + a[:3, 3] - b[:3, :3] @ centre
    fixed = save(tmp_path / "fixed.nii.gz", pair["fixed"][:, 2:, 1:], a)
    moving = save(tmp_path / "moving.nii", pair["moving"], b)
    options = ("--grid-spacing", 4, "--fixed-warped", "--quiet")
    assert invoke("register", fixed, moving, "--out", tmp_path / "out", *options) == (0, "")

    affine = sitk.ReadTransform(str(tmp_path / "out/affine.txt"))
    there, back = (field_of(tmp_path / f"out/{name}displacement.nii.gz") for name in ("", "inverse_"))
    # Of a composite the last is the first: into the affine map through the field, and out of it before the inverse.
    warped = like_simpleitk(tmp_path / "out/warped.nii.gz", moving, fixed, [affine, there], margin=1)
    assert np.allclose(warped.affine, a, atol=1e-5)
    assert float((warped.data - read_image(fixed).data).square().mean()) < 0.02
    # Three voxels in, where the field is inside of its grid as well.
    warped = like_simpleitk(tmp_path / "out/fixed_warped.nii.gz", fixed, moving, [back, affine.GetInverse()], margin=3)
    assert np.allclose(warped.affine, b, atol=1e-5)


def field_of(path: Path) -> sitk.Transform:
    return sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64))


def like_simpleitk(path: Path, image: Path, grid: Path, transforms: list[sitk.Transform], margin: int) -> Volume:
    """A warped image, which is compared with what ITK makes of the original on a grid: inside of the image, at whose
    border ITK cuts where we fade to zero over one voxel."""
    source, target = (sitk.ReadImage(str(file)) for file in (image, grid))

    def resampled(values: sitk.Image) -> torch.Tensor:
        transform = sitk.CompositeTransform(transforms)
        theirs = sitk.Resample(values, target, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
        return torch.from_numpy(sitk.GetArrayFromImage(theirs)).permute(2, 1, 0)

    within = np.zeros(source.GetSize()[::-1], np.float32)
    within[(slice(margin, -margin),) * 3] = 1
    whole = sitk.GetImageFromArray(within)
    whole.CopyInformation(source)
    inside = resampled(whole) > 0.999
    ours = read_image(path)
    assert inside.float().mean() > 0.5
    assert (ours.data - resampled(source)).abs()[inside].max() < 1e-4
    return ours


def test_points_go_there_and_back(pair: dict[str, torch.Tensor]) -> None:
    """Between grids that differ in orientation, spacing and shape."""
    other = np.diag([-1.25, 1.0, 1.0, 1.0])
    other[0, 3] = 1.25 * 50
    moving = nib.Nifti1Image(pair["moving"].numpy()[::-1][:51].copy(), other)
    result = l2rfast.register(pair["fixed"], moving, init="none", **SMALL)
    points = 12 + 40 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = result.points_in_moving(points)
    # What the field says at a voxel, through the affines by hand.
    voxel = torch.tensor([[20.0, 30.0, 25.0]])
    place = voxel[0].double() + result.displacement[0, :, 20, 30, 25].double()
    expected = np.linalg.solve(other, np.append(place.numpy(), 1))[:3]
    np.testing.assert_allclose(result.points_in_moving(voxel)[0].numpy(), expected, atol=1e-5)
    assert (there - points).abs().max() > 5
    assert (result.points_in_fixed(there) - points).norm(dim=1).mean() < 0.02
    with pytest.raises(InputError, match=r"points: expected floating numbers of shape \(M, 3\)"):
        result.points_in_moving(points[:, :2])
    with pytest.raises(InputError, match="points: expected floating numbers"):
        result.points_in_fixed(points.long())
    with pytest.raises(InputError, match="moving: expected a floating-point dtype with mode linear"):
        result.warp(result.moving.data.short())
    assert result.warp(result.moving.data.bfloat16()).dtype == torch.bfloat16
    assert result.points_in_fixed(points[:0]).shape == (0, 3)


def test_files_and_report(pair: dict[str, torch.Tensor], tmp_path: Path) -> None:
    files = {name: save(tmp_path / f"{name}.nii.gz", values) for name, values in pair.items()}
    out = tmp_path / "deep/out"
    arguments = ["--fixed-labels", files["fixed_labels"], "--moving-labels", files["moving_labels"]]
    done = command("register", files["fixed"], files["moving"], "--out", out, *arguments, "--iterations=12", *FLAGS)
    assert done.returncode == 0, done.stderr
    for stage in ("features", "discrete search", "writing"):
        assert stage in done.stderr
    assert {p.name for p in out.iterdir()} == {
        "warped.nii.gz",
        "warped_labels.nii.gz",
        "affine.txt",
        "displacement.nii.gz",
        "inverse_displacement.nii.gz",
        "fixed_warped.nii.gz",
        "jacobian.nii.gz",
        "overview.png",
        "report.html",
        "report.json",
        "report.md",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["options"]["iterations"] == 12
    assert report["similarity"]["correlation"][1] > report["similarity"]["correlation"][0]
    assert report["dice"]["mean"][1] > report["dice"]["mean"][0]
    assert {"reading", "features", "writing", "total"} <= set(report["seconds"])
    assert report["peak_memory_mb"] > 50
    displacement, affine = read_displacement(out / "displacement.nii.gz")
    assert np.array_equal(affine, np.eye(4))
    again = l2rfast.register(str(files["fixed"]), nib.load(files["moving"]), iterations=12)
    assert torch.equal(again.displacement, displacement)
    assert torch.equal(again.inverse, read_displacement(out / "inverse_displacement.nii.gz")[0])
    assert torch.equal(again.warp_back(pair["fixed"]), read_image(out / "fixed_warped.nii.gz").data)
    change = l2rfast.jacobian_determinant(displacement)[0].log()
    assert torch.equal(change, read_image(out / "jacobian.nii.gz").data)
    assert report["inverse_residual"] == pytest.approx(again.inverse_residual, rel=1e-5)
    labels = torch.from_numpy(np.asarray(nib.load(out / "warped_labels.nii.gz").dataobj))
    assert torch.equal(labels, again.warp(pair["moving_labels"], mode="nearest"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_any_dtype(pair: dict[str, torch.Tensor], dtype: type) -> None:
    def image(name: str) -> nib.Nifti1Image:
        return nib.Nifti1Image((pair[name].clamp(0, 1).numpy() * 200).astype(dtype), np.eye(4))

    result = l2rfast.register(image("fixed"), image("moving"), **SMALL)
    assert torch.isfinite(result.displacement).all()
    assert float((result.warp(pair["moving"]) - pair["fixed"]).square().mean()) < float(
        (pair["moving"] - pair["fixed"]).square().mean()
    )


def test_every_preset_is_valid_and_an_option_can_be_changed() -> None:
    from l2rfast.methods.discrete.options import choose

    for preset, axis in itertools.product(PRESETS, (3, 5)):
        assert choose(preset, window=axis).window == axis
    assert choose("accurate", metric="mind").full_iterations == 0


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"preset": "best"}, "preset: expected one of fast, default, accurate"),
        ({"method": "magic"}, "method"),
        ({"window": 4}, "window: expected an odd number"),
        ({"grid_spacing": 1}, "grid_spacing"),
        ({"iterations": -1}, "iterations"),
        ({"metric": "mse"}, "metric"),
        ({"rate": 0.0}, "rate"),
        ({"rate": None}, "rate: expected a positive number, got None"),
        ({"rate": float("inf")}, "rate: expected a positive number, got inf"),
        ({"iterations": True}, "iterations: expected an integer >= 0, got True"),
        ({"preset": ["fast"]}, "preset: expected one of fast, default, accurate"),
        ({"method": ["discrete"]}, "method: expected one of"),
        ({"threads": True}, "threads: expected an integer from 1 to 1024, got True"),
        ({"threads": 10**12}, "threads: expected an integer from 1 to 1024, got 1000000000000"),
        ({"device": None}, "device: cannot use 'None' here"),
        ({"device": "meta"}, "device: cannot use 'meta' here"),
        ({"speed": 9}, "speed: no such option"),
        ({"threads": 0}, "threads"),
        ({"device": "warp-drive"}, "device"),
    ],
)
def test_bad_options(pair: dict[str, torch.Tensor], options: dict[str, object], fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        l2rfast.register(pair["fixed"], pair["moving"], **options)


def test_images_that_do_not_overlap(pair: dict[str, torch.Tensor]) -> None:
    away = np.eye(4)
    away[:3, 3] = 1e4
    image = nib.Nifti1Image(pair["moving"].numpy(), away)
    with pytest.raises(InputError, match="overlap"):
        l2rfast.register(pair["fixed"], image, init="none")
    result = l2rfast.register(pair["fixed"], image)  # unless told, by an affine map
    assert result.initial.why == "moving covers 0 % of the fixed grid"
    assert mean_dice_all(pair["fixed_labels"], result.warp(pair["moving_labels"], mode="nearest")) > 0.9


def bad_files(folder: Path, good: np.ndarray) -> dict[str, Path]:
    truncated = folder / "truncated.nii.gz"
    truncated.write_bytes(save(folder / "whole.nii.gz", good).read_bytes()[:5000])
    text = folder / "text.nii.gz"
    text.write_text("not an image\n")
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    holed = good.copy()
    holed[3, 3, 3] = np.nan
    header = nib.Nifti1Image(good, np.eye(4))
    header.header["sform_code"], header.header["qform_code"] = 2, 0
    header.header["srow_z"] = flat[2]
    header.header["pixdim"][3] = 1
    singular = folder / "singular.nii"
    singular.write_bytes(header.header.binaryblock + b"\0" * 4 + good.tobytes("F"))
    return {
        "missing": folder / "missing.nii.gz",
        "truncated": truncated,
        "text": text,
        "4-D": save(folder / "4d.nii.gz", np.stack([good, good], -1)),
        "NaN": save(folder / "nan.nii.gz", holed),
        "constant": save(folder / "constant.nii.gz", np.ones_like(good)),
        "rank 2": singular,
    }


def test_bad_input_is_one_sentence(pair: dict[str, torch.Tensor], tmp_path: Path) -> None:
    good = pair["fixed"].numpy()
    fixed = save(tmp_path / "fixed.nii.gz", good)
    for kind, path in bad_files(tmp_path, good).items():
        code, error = invoke("register", fixed, path, "--out", tmp_path / "out", "--quiet")
        assert code == 2, kind
        assert error.startswith("l2rfast: error: "), kind
        assert error.count("\n") == 1, (kind, error)
        assert path.name in error, kind
        assert not (tmp_path / "out").exists(), kind


def test_bad_labels_and_output(pair: dict[str, torch.Tensor], tmp_path: Path) -> None:
    files = {name: save(tmp_path / f"{name}.nii.gz", values) for name, values in pair.items()}
    small = save(tmp_path / "small.nii.gz", pair["fixed_labels"][:-1])
    images = ["register", files["fixed"], files["moving"], "--quiet", "--out"]
    cases = {
        "--fixed-labels": [tmp_path / "out", "--fixed-labels", small, "--moving-labels", files["moving_labels"]],
        "--moving-labels": [tmp_path / "out", "--fixed-labels", files["fixed_labels"]],
        "--out": [files["fixed"] / "below-a-file"],
    }
    for fragment, arguments in cases.items():
        code, error = invoke(*images, *arguments)
        assert (code, error.count("\n")) == (2, 1), error
        assert fragment in error
        assert not (tmp_path / "out").exists()


def test_labels_that_have_none_in_common_are_said(pair: dict[str, torch.Tensor], tmp_path: Path) -> None:
    files = {name: save(tmp_path / f"{name}.nii.gz", values) for name, values in pair.items()}
    others = save(tmp_path / "others.nii.gz", 100 * pair["moving_labels"])
    options = ("--preset=fast", "--quiet", "--fixed-labels", files["fixed_labels"], "--moving-labels", others)
    code, error = invoke("register", files["fixed"], files["moving"], "--out", tmp_path / "out", *options)
    said = "--fixed-labels, --moving-labels: no label in common, so nothing of them can overlap"
    assert (code, error) == (0, f"l2rfast: warning: {said}\n")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["warnings"] == [said]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(pair: dict[str, torch.Tensor], tmp_path: Path, kind: signal.Signals) -> None:
    files = {name: save(tmp_path / f"{name}.nii.gz", pair[name]) for name in ("fixed", "moving")}
    (tmp_path / "results").mkdir()
    arguments = ["register", *files.values(), "--out", tmp_path / "results/out", "--iterations=99999"]
    endless = "from l2rfast.methods import refine; refine.STEADY = 10**9"  # else it comes to rest within a second
    process = subprocess.Popen(
        [sys.executable, "-c", f"{endless}; from l2rfast.cli import main; main()", *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        until(lambda: list((tmp_path / "results").iterdir()), process)
        time.sleep(1.0)  # well inside the optimisation
        process.send_signal(kind)
        _, message = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()  # which would go on for hours
    assert process.returncode == 128 + kind, message
    assert message.splitlines()[-1] == "l2rfast: interrupted, nothing was written"
    assert "Traceback" not in message
    assert list((tmp_path / "results").iterdir()) == []


def test_a_budget_of_time_is_kept_or_said(pair: dict[str, torch.Tensor]) -> None:
    images = pair["fixed"], pair["moving"]
    whole = l2rfast.register(*images, time_budget=3600)
    assert torch.equal(whole.displacement, l2rfast.register(*images).displacement)
    with pytest.warns(InputWarning, match="time_budget: 1e-06 s are short .* steps .* left out, and it took .* s more"):
        short = l2rfast.register(*images, time_budget=1e-6)
    assert l2rfast.digital_jacobian(short.displacement).min() > 0
    assert not torch.equal(short.displacement, whole.displacement)


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "3", True])
def test_a_budget_is_seconds(pair: dict[str, torch.Tensor], seconds: object) -> None:
    with pytest.raises(InputError, match="time_budget: expected a positive number of seconds"):
        l2rfast.register(pair["fixed"], pair["moving"], time_budget=seconds)


@pytest.mark.parametrize(("init", "reach"), [("none", 4), ("moments", 4), ("rigid", 2), ("affine", 2)])
def test_after_a_start_that_was_found_the_search_is_narrow(
    pair: dict[str, torch.Tensor], init: str, reach: int
) -> None:
    image = pair["fixed"][::2, ::2, ::2]
    few = {"coarse_iterations": 0, "iterations": 1, "full_iterations": 0}
    assert l2rfast.register(image, image.roll(2, 0), init=init, **few).options["search_radius"] == reach


def test_the_width_of_the_search_that_is_asked_for_is_kept(pair: dict[str, torch.Tensor]) -> None:
    image = pair["fixed"][::2, ::2, ::2]
    few = {"coarse_iterations": 0, "iterations": 1, "full_iterations": 0}
    assert l2rfast.register(image, image, init="rigid", search_radius=3, **few).options["search_radius"] == 3
