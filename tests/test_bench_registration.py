"""The benchmark of whole registrations: conversions of others' fields, what is measured of them, and the report."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

import l2rfast
from bench import machine, registration, runs, tools
from bench.quality import Quality, quality
from bench.registration import Comparison, Entry
from bench.runs import Taken
from bench.tools import ACCURATE, CONVEXADAM, DEFAULT, FAST, PATCHED, Fields
from bench.tools.fields import of_itk, written
from l2rfast import InputError, data
from l2rfast.io import Volume

OBLIQUE = np.array([[0, -1.5, 0, 5], [-1.6, 0, 0.6, -3], [1.2, 0, 0.8, 7], [0, 0, 0, 1]])  # voxels of 2 x 1.5 x 1 mm


def smooth_image(shape: tuple[int, ...]) -> Tensor:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, *shape))).float()
    return l2rfast.box_average(noise, 5)[0, 0]


def good() -> Quality:
    return Quality(0.78, 1.5, 0.0, 0.0, 0.5, 0.02, 1e-4)


def taken(seconds: float = 2.0, others: float = 0.0) -> Taken:
    return Taken(seconds, 2 * seconds, others, 900_000_000, 500_000_000, "avx2")


def comparison() -> Comparison:
    methods = {
        FAST: Entry("2026-01-01", replace(good(), dice=0.75), [taken(1), taken(5), taken(2)]),
        DEFAULT: Entry("2026-01-01", replace(good(), inverse_residual=0.06, digital_percent=0.01), [taken(4)]),
        CONVEXADAM: Entry("2026-01-01", replace(good(), dice=0.71, inverse_residual=None), [taken(80)]),
        PATCHED: Entry("2026-01-01", replace(good(), dice=0.71), [taken(8)]),
        "greedy, NCC": Entry("2026-01-01", replace(good(), dice=0.765), [taken(60, others=1.5)]),
    }
    return Comparison("full", [160, 192, 224], replace(good(), dice=0.52), methods=methods)


def test_a_field_of_itk_is_converted_so_that_our_warp_is_itks(tmp_path: Path) -> None:
    shape = (9, 11, 8)
    moving = Volume(smooth_image(shape), OBLIQUE)
    written(moving, moving, tmp_path)
    image = sitk.ReadImage(str(tmp_path / "moving.nii"), sitk.sitkFloat32)
    vectors = np.random.default_rng(1).uniform(-1.5, 1.5, (*reversed(shape), 3))
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.CopyInformation(image)
    transform = sitk.DisplacementFieldTransform(field)
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, transform)).transpose(2, 1, 0)
    disp = of_itk(vectors.transpose(2, 1, 0, 3), l2rfast.io.read_image(tmp_path / "moving.nii").affine)
    ours = l2rfast.warp(moving.data[None, None], disp, padding="zeros")[0, 0].numpy()
    np.testing.assert_allclose(ours[2:-2, 2:-2, 2:-2], theirs[2:-2, 2:-2, 2:-2], atol=1e-4)


@pytest.fixture
def shifted() -> tuple[Volume, Volume, tuple[Tensor, Tensor]]:
    """Fixed is moving, and its labels, one voxel further along the second axis, and 10 mm off in the world."""
    image = smooth_image((12, 14, 10))
    image[:, 0] = 0  # comes round to the other side
    labels = torch.zeros(12, 14, 10, dtype=torch.uint8)
    labels[3:7, 4:8, 3:6] = 4
    away = np.eye(4)
    away[0, 3] = 10
    return Volume(image.roll(-1, 1), np.eye(4)), Volume(image, away), (labels.roll(-1, 1), labels)


def test_quality_is_that_of_the_fields_and_the_map_after_them(
    shifted: tuple[Volume, Volume, tuple[Tensor, Tensor]],
) -> None:
    fixed, moving, labels = shifted
    disp = torch.zeros(1, 3, 12, 14, 10)
    disp[:, 1] = 1
    found = quality(fixed, moving, labels, [4], Fields(disp, -0.75 * disp, moving.affine, fixed.data * 1.0))
    assert (found.dice, found.hd95, found.folded_percent, found.digital_percent) == (1, 0, 0, 0)
    assert found.inverse_residual == pytest.approx(0.25)
    before = quality(fixed, moving, labels, [4], Fields(0 * disp, matrix=moving.affine))
    assert before.dice == pytest.approx(0.75)
    assert before.inverse_residual is None


def test_an_image_that_is_not_our_warp_of_the_field_is_refused(
    shifted: tuple[Volume, Volume, tuple[Tensor, Tensor]],
) -> None:
    fixed, moving, labels = shifted
    with pytest.raises(RuntimeError, match="not its own image"):
        quality(fixed, moving, labels, [4], Fields(torch.zeros(1, 3, 12, 14, 10), None, moving.affine, fixed.data))


def test_figures_are_medians_and_compared_with_who_comes_near() -> None:
    figures = comparison().figures(FAST)
    assert figures["seconds"] == 2
    assert figures["Dice above all others"] == pytest.approx(-0.015)
    assert figures[f"times faster than {CONVEXADAM}"] == 40
    assert figures["times faster than others within 0.02 Dice"] == 30
    assert "Dice above all others" not in comparison().figures(PATCHED)


def test_the_report_tells_which_targets_are_met_and_what_was_timed_beside_other_work() -> None:
    text = comparison().markdown()
    assert f"| {FAST} | Dice >= 0.755 | 0.75 | **not met** |" in text
    assert f"| {DEFAULT} | Dice >= 0.77 | 0.78 | met |" in text
    assert f"| {DEFAULT} | digitally folded, % <= 0 | 0.01 | **not met** |" in text
    assert f"| {ACCURATE} | Dice >= 0.785 | - | not measured |" in text
    assert f"| {DEFAULT} | times faster than others within 0.02 Dice >= 10 | 15 | not measured |" in text
    assert f"| {ACCURATE} | Dice above all others >= 0 | - | not measured |" in text
    assert "60.0\\* (1.5)" in text
    assert "2.00 [1.00, 5.00] |" in text
    assert "Skipped: syntx (" in text
    assert "Not measured yet: l2rfast accurate; " in text


def test_times_are_judged_where_nothing_else_ran() -> None:
    quiet = comparison()
    quiet.methods["greedy, NCC"] = Entry("2026-01-01", replace(good(), dice=0.765), [taken(60)])
    text = quiet.markdown()
    assert f"| {DEFAULT} | times faster than others within 0.02 Dice >= 10 | 15 | met |" in text
    assert f"| {PATCHED} | times faster than {CONVEXADAM} >= 3 | 10 | met |" in text
    assert "\\*" not in text
    del quiet.methods["greedy, NCC"]
    assert f"| {FAST} | times faster than others within 0.02 Dice >= 10 | there is none | met |" in quiet.markdown()


def test_what_was_measured_is_read_again(tmp_path: Path) -> None:
    first = comparison()
    first.write(tmp_path)
    content = json.loads((tmp_path / "registration.json").read_text())
    assert asdict(Comparison.restored(content)) == asdict(first)


def test_only_what_is_missing_or_was_timed_beside_other_work_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measured(method: str, step: int, threads: int, rounds: int) -> Entry:
        asked.append(method)
        if method == "DIPY SyN, CC":
            raise ModuleNotFoundError("No module named 'dipy'")
        if method == "FireANTs":
            raise RuntimeError("no GPU\nof any kind")
        return Entry("2026-02-02", good(), [taken()])

    monkeypatch.setattr(registration, "measured", measured)
    comparison().write(tmp_path)
    assert registration.main(["--out", str(tmp_path), "--omit", "ANTs SyN, CC"]) == 0
    assert asked == [name for name in tools.TOOLS if name not in (FAST, DEFAULT, CONVEXADAM, PATCHED, "ANTs SyN, CC")]
    content = json.loads((tmp_path / "registration.json").read_text())
    assert content["skipped"] == {"DIPY SyN, CC": "No module named 'dipy'", "FireANTs": "RuntimeError: no GPU"}
    assert list(content["methods"]) == [
        name for name in tools.TOOLS if name not in ("DIPY SyN, CC", "FireANTs", "ANTs SyN, CC")
    ]


def test_without_the_scans_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Path:
        raise InputError(f"{name}: not found")

    monkeypatch.setattr(data, "path", absent)
    assert registration.main(["--out", str(tmp_path)]) == 0
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_its_fields_and_says_what_it_took(tmp_path: Path) -> None:
    image = Volume(smooth_image((16, 16, 16)), np.eye(4))
    file = tmp_path / "found.npz"
    took = runs.run(FAST, image, image, 1, file)
    found = runs.load(file)
    assert 0 < took.seconds < 60
    assert took.peak_bytes is None or took.peak_bytes >= (took.before_bytes or 0) > 0
    assert found.displacement.shape == (1, 3, 16, 16, 16)
    assert found.inverse is not None
    assert found.warped is None
    np.testing.assert_array_equal(found.matrix, np.eye(4))


def test_what_is_not_installed_keeps_the_version_that_it_was_measured_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "software", lambda *peers: dict.fromkeys(peers, machine.ABSENT) | {"dipy": "2"})
    found = runs.versions({"dipy": "1", "antspyx": "0.6"})
    assert (found["dipy"], found["antspyx"], found["fireants"]) == ("2", "0.6", machine.ABSENT)


def test_the_methods_of_the_targets_are_measured() -> None:
    assert {target.method for target in registration.TARGETS} <= tools.TOOLS.keys()
