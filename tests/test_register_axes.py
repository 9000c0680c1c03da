"""Stacks of few slices, voxels that are longer along one axis, and 2-D images."""

from __future__ import annotations

import json
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
from l2rfast.fields import integrate_velocity
from l2rfast.filters import box_average
from l2rfast.io import Volume, read_displacement
from l2rfast.metrics import dice, folding_fraction

Scans = dict[str, Tensor]


def scans(*size: int) -> Scans:
    """A pair of thick slabs, or of slices, bent within the slices alone."""
    (subject,) = anatomies(1, (56, 52, 24) if len(size) == 3 else (56, 52), structures=5, noise=0.01)
    first = 0 if len(size) == 2 else 12 - size[2] // 2
    image, labels = (x[..., first : first + size[2]] if len(size) == 3 else x for x in (subject.image, subject.labels))
    noise = torch.randn(1, len(size), *image.shape[2:], generator=torch.Generator().manual_seed(2))
    velocity = 60 * box_average(noise.mean(-1, keepdim=True) if len(size) == 3 else noise, 4, passes=3)
    velocity = velocity.expand_as(noise).contiguous()
    velocity *= 2.5 / velocity.abs().max()
    velocity[:, 2:] = 0
    field = integrate_velocity(velocity)
    return {
        "fixed": image[0, 0].contiguous(),
        "fixed_labels": labels[0, 0].contiguous(),
        "moving": l2rfast.warp(image, field)[0, 0],
        "moving_labels": l2rfast.warp(labels, field, mode="nearest")[0, 0],
    }


def overlap(a: Tensor, b: Tensor) -> float:
    return float(np.mean(list(dice(a, b).values())))


@pytest.mark.parametrize("options", [{}, {"preset": "fast"}, {"metric": "mind"}])
@pytest.mark.parametrize("slices", [2, 4, 10])
@pytest.mark.parametrize("thickness", [1.0, 5.0])
def test_few_slices(slices: int, thickness: float, options: dict[str, Any]) -> None:
    pair = scans(56, 52, slices)
    affine = np.diag([1.0, 1.0, thickness, 1.0])
    result = l2rfast.register(Volume(pair["fixed"], affine), Volume(pair["moving"], affine), **options)
    before = overlap(pair["fixed_labels"], pair["moving_labels"])
    after = overlap(pair["fixed_labels"], result.warp(pair["moving_labels"], mode="nearest"))
    assert after > before + 0.2 * (1 - before)
    assert float(folding_fraction(result.displacement)) < 1e-3
    assert result.displacement[:, 2].abs().max() * thickness < 4  # none is there


def test_only_ratios_of_spacing_count() -> None:
    pair = scans(56, 52, 10)

    def found(*spacing: float) -> Tensor:
        affine = np.diag([*spacing, 1.0])
        volumes = (Volume(pair[name], affine) for name in ("fixed", "moving"))
        return l2rfast.register(*volumes, preset="fast").displacement

    assert torch.equal(found(0.4, 0.4, 2.0), found(1.0, 1.0, 5.0))
    assert torch.equal(
        found(1.0, 1.0, 1.0), l2rfast.register(pair["fixed"], pair["moving"], preset="fast").displacement
    )


def test_search_reaches_as_far_along_long_voxels() -> None:
    """9.6 mm of voxels of 0.4 mm are two of 5 mm, not the 24 that it would be counted in voxels."""
    (subject,) = anatomies(1, (48, 48, 32), structures=4)
    image = subject.image[0, 0]
    moved = image.roll(8, 2)

    def furthest(spacing: float) -> float:
        volumes = (Volume(x, np.diag([0.4, 0.4, spacing, 1.0])) for x in (image, moved))
        result = l2rfast.register(*volumes, init="none", coarse_iterations=0, iterations=0, full_iterations=0)
        return float(result.displacement[:, 2].abs().max())

    assert furthest(5.0) <= 2
    assert furthest(0.4) > 4


@pytest.mark.parametrize("init", ["none", "auto"])
def test_2d(init: str) -> None:
    pair = scans(56, 52)
    result = l2rfast.register(pair["fixed"].numpy(), pair["moving"][None, None], init=init)
    assert result.displacement.shape == (1, 2, 56, 52)
    before = overlap(pair["fixed_labels"], pair["moving_labels"])
    after = overlap(pair["fixed_labels"], result.warp(pair["moving_labels"], mode="nearest"))
    assert after > before + 0.5 * (1 - before)


def test_2d_and_3d() -> None:
    with pytest.raises(InputError, match="moving: expected 2 axes, as fixed has, got 3"):
        l2rfast.register(torch.rand(20, 20), torch.rand(20, 20, 20))


def test_2d_on_the_command_line(tmp_path: Path) -> None:
    """As ITK takes images of two axes together: its warped image is ours."""
    pair, angle = scans(56, 52), 0.3
    affine = np.diag([1.5, 0.8, 4.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-20, 30, 7)
    for name, values in pair.items():
        nib.save(nib.Nifti1Image(values.numpy(), affine), tmp_path / f"{name}.nii")
    labels = [f"--{name}-labels={tmp_path / name}_labels.nii" for name in ("fixed", "moving")]
    line = ["register", *(str(tmp_path / f"{name}.nii") for name in ("fixed", "moving")), *labels]
    done = CliRunner().invoke(cli.app, [*line, "--out", str(tmp_path / "out"), "--quiet"])
    assert done.exit_code == 0, done.output

    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["inputs"]["fixed"]["shape"] == [56, 52]
    assert report["dice"]["mean"][1] > 0.95
    assert report["similarity"]["correlation"][1] > report["similarity"]["correlation"][0]
    assert (tmp_path / "out/overview.png").stat().st_size > 10_000

    fixed, moving, warped = (
        sitk.ReadImage(str(tmp_path / name), sitk.sitkFloat32)
        for name in ("fixed.nii", "moving.nii", "out/warped.nii.gz")
    )
    stored = sitk.ReadImage(str(tmp_path / "out/displacement.nii.gz"), sitk.sitkVectorFloat64)
    start = sitk.ReadTransform(str(tmp_path / "out/affine.txt"))
    transform = sitk.CompositeTransform([start, sitk.DisplacementFieldTransform(stored)])
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear))
    ours = sitk.GetArrayFromImage(warped)
    assert theirs.shape == ours.shape == (52, 56)
    assert np.abs(theirs - ours)[6:-6, 6:-6].max() < 1e-3
    field, grid = read_displacement(tmp_path / "out/displacement.nii.gz")
    again = l2rfast.register(*(tmp_path / f"{name}.nii" for name in ("fixed", "moving")))
    torch.testing.assert_close(field, again.displacement)
    np.testing.assert_allclose(grid, affine, atol=1e-5)
    nib.save(nib.Nifti1Image(pair["moving"][..., None].numpy(), affine), tmp_path / "slice.nii")
    assert torch.equal(
        l2rfast.register(tmp_path / "fixed.nii", tmp_path / "slice.nii").displacement, again.displacement
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize("init", ["none", "affine"])
def test_slices_in_any_plane_are_itks(tmp_path: Path, init: str, angle: float, axis: int) -> None:
    """Images of three axes for ITK, one of them of length 1: its warped image is ours, and of the same axes. Those of
    moving lie elsewhere across their plane.
    """
    pair = scans(56, 52)
    affine = np.diag([1.5, 0.8, 4.0, 1.0])
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-20, 30, 7)
    elsewhere = affine.copy()
    elsewhere[:3, 3] += 9 * affine[:3, axis]
    for name, header in (("fixed", affine), ("moving", elsewhere)):
        nib.save(nib.Nifti1Image(np.expand_dims(pair[name].numpy(), axis), header), tmp_path / f"{name}.nii")
    line = ["register", *(str(tmp_path / f"{name}.nii") for name in ("fixed", "moving")), "--init", init]
    done = CliRunner().invoke(cli.app, [*line, "--preset", "fast", "--out", str(tmp_path / "out"), "--quiet"])
    assert done.exit_code == 0, done.output
    names = ("fixed.nii", "moving.nii", "out/warped.nii.gz")
    fixed, moving, warped = (sitk.ReadImage(str(tmp_path / name), sitk.sitkFloat32) for name in names)
    stored = sitk.ReadImage(str(tmp_path / "out/displacement.nii.gz"), sitk.sitkVectorFloat64)
    start = sitk.ReadTransform(str(tmp_path / "out/affine.txt"))
    transform = sitk.CompositeTransform([start, sitk.DisplacementFieldTransform(stored)])
    theirs, unmoved = (
        sitk.GetArrayFromImage(sitk.Resample(moving, warped, t, sitk.sitkLinear)).squeeze()
        for t in (transform, sitk.Transform(3, sitk.sitkIdentity))
    )
    ours = sitk.GetArrayFromImage(warped).squeeze()
    assert theirs.shape == (52, 56)
    assert np.abs(theirs - ours)[6:-6, 6:-6].max() < 1e-3 < 0.1 < np.abs(unmoved - ours)[6:-6, 6:-6].max()
    for index in ((0, 0), (55, 0), (0, 51)):  # where fixed is
        place = fixed.TransformIndexToPhysicalPoint(np.insert(index, axis, 0).tolist())
        np.testing.assert_allclose(
            warped.TransformIndexToPhysicalPoint(np.insert(index, axis, 0).tolist()), place, atol=1e-4
        )
    assert warped.GetSize() == fixed.GetSize()
    again = l2rfast.register(
        tmp_path / "fixed.nii", tmp_path / "moving.nii", preset="fast", initial=tmp_path / "out/displacement.nii.gz"
    )
    assert again.displacement.shape == (1, 2, 56, 52)


@pytest.mark.parametrize("init", ["auto", "affine"])
@pytest.mark.parametrize("axes", [(2, 0), (0, 2)])
def test_slices_that_stand_on_each_other_are_refused(axes: tuple[int, int], init: str) -> None:
    pair = scans(28, 26)
    images = [
        nib.Nifti1Image(np.expand_dims(pair[name].numpy(), axis), np.eye(4))
        for name, axis in zip(("fixed", "moving"), axes, strict=True)
    ]
    with pytest.raises(InputError, match=r"^moving: expected a slice in about the plane of fixed"):
        l2rfast.register(*images, init=init)
