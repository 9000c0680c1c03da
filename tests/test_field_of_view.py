"""What moving does not cover: it has no weight, and the value that is asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor
from typer.testing import CliRunner

import l2rfast
from l2rfast import InputError, cli
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume
from l2rfast.methods.result import Registration
from l2rfast.metrics import dice

CUT = 16


@pytest.fixture(scope="module")
def pair() -> dict[str, Tensor]:
    moving, fixed = anatomies(2, (48, 48, 44), structures=4, deformation=0.03, noise=0.01)
    return {
        "fixed": fixed.image[0, 0],
        "moving": moving.image[0, 0],
        "fixed_labels": fixed.labels[0, 0],
        "moving_labels": moving.labels[0, 0],
    }


def shifted(by: float, axis: int = 0) -> np.ndarray:
    affine = np.eye(4)
    affine[axis, 3] = by
    return affine


def mean_dice(a: Tensor, b: Tensor) -> float:
    return float(np.mean(list(dice(a, b).values())))


@pytest.mark.parametrize("options", [{"preset": "fast"}, {"preset": "fast", "metric": "mind"}])
def test_where_moving_does_not_reach_it_says_nothing(pair: dict[str, Tensor], options: dict[str, Any]) -> None:
    """As good as with the fixed image cut by hand; beyond, the field goes on smoothly."""
    covered, place = slice(CUT, None), shifted(CUT)
    moving = Volume(pair["moving"][covered].contiguous(), place)
    labels = pair["moving_labels"][covered].contiguous()
    whole = l2rfast.register(Volume(pair["fixed"], np.eye(4)), moving, init="none", **options)
    cut = l2rfast.register(Volume(pair["fixed"][covered].contiguous(), place), moving, init="none", **options)
    truth = pair["fixed_labels"][covered]
    ours, by_hand = (result.warp(labels, mode="nearest") for result in (whole, cut))
    assert mean_dice(truth, ours[covered]) > mean_dice(truth, by_hand) - 0.005
    assert mean_dice(truth, ours[covered]) > mean_dice(truth, labels) + 0.01
    most = whole.displacement[:, :, CUT:].norm(dim=1).max()
    assert whole.displacement[:, :, :CUT].norm(dim=1).max() < 1.1 * most
    assert (l2rfast.jacobian_determinant(whole.displacement)[:, :CUT] > 0.3).all()


@pytest.mark.parametrize("padding", [None, -3024.0])
@pytest.mark.parametrize("stray", [None, 1e7])
def test_neither_padding_nor_a_stray_voxel_counts(
    pair: dict[str, Tensor], padding: float | None, stray: float | None
) -> None:
    """In either image, on a turned grid as well, where interpolation would spread it."""
    place = np.eye(4)
    place[:2, :2] = [[0.99, -0.1], [0.1, 0.99]]
    place[:3, 3] = (3, -2, 0)
    images = []
    for name in ("fixed", "moving"):
        image = 1500 * pair[name] - 1000
        if padding is not None:
            rows, columns = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
            image = torch.where((rows**2 + columns**2 > 1)[..., None], padding, image)
        if stray is not None:
            image[20, 24, 20] = stray
        images.append(image)
    plain = [1500 * pair[name] - 1000 for name in ("fixed", "moving")]

    def found(fixed: Tensor, moving: Tensor) -> float:
        result = l2rfast.register(Volume(fixed, np.eye(4)), Volume(moving, place), preset="fast", init="none")
        return mean_dice(pair["fixed_labels"], result.warp(pair["moving_labels"], mode="nearest"))

    expected = found(*plain)
    assert found(images[0], plain[1]) == pytest.approx(expected, abs=0.006)
    assert found(plain[0], images[1]) == pytest.approx(expected, abs=0.006)
    assert found(*images) == pytest.approx(expected, abs=0.006)


def registration(shape: tuple[int, ...], moving: Volume, displacement: float = 0.0) -> Registration:
    fixed = Volume(torch.rand(shape), np.eye(4))
    field = torch.full((1, len(shape), *shape), displacement)
    return Registration(field, -field, fixed, moving, {}, {})


@pytest.mark.parametrize("outside", [-1000.0, 0.0, 12.5])
def test_the_value_outside_is_itks(outside: float) -> None:
    """Beyond the voxel over which ours fades, which ITK has not."""
    moving = torch.rand(8, 9, 7) * 100
    result = registration((14, 13, 12), Volume(moving, shifted(2.0)), 0.25)
    ours = result.warp(moving, outside=outside)
    image = sitk.GetImageFromArray(moving.permute(2, 1, 0).numpy())
    image.SetOrigin((2.0, 0.0, 0.0))
    move = sitk.TranslationTransform(3, (0.25, 0.25, 0.25))
    theirs = sitk.Resample(
        image, (14, 13, 12), move, sitk.sitkLinear, (0.0,) * 3, (1.0,) * 3, (1, 0, 0, 0, 1, 0, 0, 0, 1), outside
    )
    theirs = torch.from_numpy(sitk.GetArrayFromImage(theirs)).permute(2, 1, 0)
    covered = result.covered()
    inside = torch.zeros_like(covered)
    inside[2:9, :8, :6] = True
    assert torch.equal(covered, inside)
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=0, atol=1e-4)
    beyond = torch.ones_like(covered)
    beyond[1:10, :9, :7] = False
    assert (ours[beyond] == outside).all()


def test_the_value_outside_is_air_unless_told() -> None:
    moving = torch.linspace(-1000, 800, 9 * 9 * 9).view(9, 9, 9)
    result = registration((12, 9, 9), Volume(moving, np.eye(4)))
    assert result.warp(moving)[9:].unique().tolist() == pytest.approx([-1000], abs=10)
    moving[0, 0, 0] = -32768  # one voxel is no air
    assert result.warp(moving)[9:].unique().tolist() == pytest.approx([-1000], abs=10)
    torch.testing.assert_close(result.warp(moving)[:9], moving)


def test_labels_outside() -> None:
    labels = torch.arange(1, 9 * 9 + 1, dtype=torch.int32).view(9, 9)
    result = registration((11, 9), Volume(labels.float(), np.eye(4)))
    warped = result.warp(labels, mode="nearest")
    assert torch.equal(warped[:9], labels)
    assert (warped[9:] == 0).all()
    large = 2**30 + labels  # float32 does not hold them
    warped = result.warp(large, mode="nearest", outside=7)
    assert warped.dtype == torch.int32
    assert torch.equal(warped[:9], large)
    assert (warped[9:] == 7).all()
    for outside in (0.5, float("nan"), 2.0**40):
        with pytest.raises(InputError, match=r"outside: expected a number that torch\.int32 holds"):
            result.warp(labels, mode="nearest", outside=outside)


def test_another_shape_than_movings() -> None:
    result = registration((11, 9), Volume(torch.rand(9, 9), np.eye(4)))
    with pytest.raises(InputError, match=r"moving: expected the shape of the moving image, \(9, 9\), got \(11, 9\)"):
        result.warp(torch.rand(11, 9))


def test_the_report_is_of_what_moving_covers(pair: dict[str, Tensor], tmp_path: Path) -> None:
    """The same similarities whatever is said to be outside; and air there, in CT."""
    hounsfield = {name: 1500 * pair[name] - 1000 for name in ("fixed", "moving")}
    inner = (slice(6, -6),) * 3
    affine = np.eye(4)
    affine[:3, 3] = 6
    nib.save(nib.Nifti1Image(hounsfield["fixed"].numpy(), np.eye(4)), tmp_path / "fixed.nii")
    nib.save(nib.Nifti1Image(hounsfield["moving"][inner].numpy(), affine), tmp_path / "moving.nii")
    reports = []
    for more in ([], ["--outside", "-3000"]):
        line = ["register", "fixed.nii", "moving.nii", "--out", "out", "--preset", "fast", "--quiet", *more]
        here = Path.cwd()
        os.chdir(tmp_path)
        try:
            done = CliRunner().invoke(cli.app, line)
        finally:
            os.chdir(here)
        assert done.exit_code == 0, done.output
        reports.append(json.loads((tmp_path / "out/report.json").read_text()))
        least = float(nib.load(tmp_path / "out/warped.nii.gz").get_fdata().min())
        assert least == pytest.approx(-3000 if more else float(hounsfield["moving"][inner].min()), abs=60)
    before, after = reports[0]["similarity"]["correlation"]
    assert 0.5 < before < after
    assert reports[0]["similarity"] == reports[1]["similarity"]


def test_outside_is_a_number_of_the_dtype() -> None:
    image = torch.rand(8, 9, 10)
    result = l2rfast.register(image, image, preset="fast")
    with pytest.raises(InputError, match=r"outside: expected a number that torch\.float32 holds, got 1e\+39"):
        result.warp(image, outside=1e39)
