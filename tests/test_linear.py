"""A rigid or affine registration: the map is the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_initial import middle, turned, world
from typer.testing import CliRunner

import l2rfast
from l2rfast import cli
from l2rfast.data.brains import synthetic_pair
from l2rfast.io import Volume, read_displacement, read_image, read_transform, write_displacement, write_image
from l2rfast.methods.method import Found, Method
from l2rfast.methods.registration import registered
from l2rfast.methods.stages import Stages

MM = 1.5


@pytest.fixture(scope="module")
def scan() -> Volume:
    return Volume(synthetic_pair(40)["moving"], world(15, 40, np.zeros(3)) @ np.diag([MM, MM, MM, 1.0]))


def places(volume: Volume) -> np.ndarray:
    """(3, 8) between the middle and the corners, in RAS millimetres."""
    corners = np.stack(np.meshgrid(*[[s / 4, 3 * s / 4] for s in volume.data.shape])).reshape(3, -1)
    found: np.ndarray = volume.affine[:3] @ np.concatenate([corners, np.ones((1, 8))])
    return found


@pytest.mark.parametrize(("transform", "scale"), [("rigid", 1.0), ("affine", 1.08)])
def test_the_map_is_the_result_and_itk_reads_it(scan: Volume, transform: str, scale: float, tmp_path: Path) -> None:
    by = world(10, 4, middle(scan), scale)
    write_image(tmp_path / "fixed.nii.gz", scan)
    write_image(tmp_path / "moving.nii.gz", Volume(turned(scan.data, scan.affine, by), scan.affine))
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    options = [f"--transform={transform}", f"--out={tmp_path / 'out'}", "--quiet"]
    result = CliRunner().invoke(cli.app, ["register", *files, *options])
    assert (result.exit_code, result.stderr) == (0, "")
    theirs = sitk.ReadTransform(str(tmp_path / "out/affine.txt"))
    lps, at = np.diag([-1.0, -1.0, 1.0]), places(scan)
    reached = lps @ np.array([theirs.TransformPoint(p) for p in (lps @ at).T]).T
    assert np.linalg.norm(reached - (by[:3, :3] @ at + by[:3, 3:]), axis=0).mean() < 0.2 * MM
    assert not read_displacement(tmp_path / "out/displacement.nii.gz")[0].any()
    image = sitk.Resample(*(sitk.ReadImage(file) for file in reversed(files)), theirs)  # fixed's grid
    ours = read_image(tmp_path / "out/warped.nii.gz").data.numpy()
    inner = (slice(8, -8),) * 3  # from inside moving
    np.testing.assert_allclose(ours[inner], sitk.GetArrayFromImage(image).T[inner], atol=1e-4)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {name: report["options"][name] for name in ("transform", "init", "init_because")} == {
        "transform": transform,
        "init": transform,
        "init_because": "asked for",
    }
    assert report["folding_percent"] == report["log_jacobian_std"] == 0


def test_from_python_where_the_headers_agree(scan: Volume) -> None:
    by = world(4, 2, middle(scan))
    moving = Volume(turned(scan.data, scan.affine, by), scan.affine)
    result = l2rfast.register(scan, moving, transform="rigid")
    turn = result.initial.matrix[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    at = np.concatenate([places(scan), np.ones((1, 8))])
    assert np.linalg.norm((result.initial.matrix - by)[:3] @ at, axis=0).mean() < 0.1 * MM
    assert not result.displacement.any()
    # The same map that a deformable registration starts from.
    np.testing.assert_array_equal(
        l2rfast.register(scan, moving, init="rigid", preset="fast").initial.matrix, result.initial.matrix
    )


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({"transform": "similarity"}, "transform: expected one of rigid, affine, deformable, got 'similarity'"),
        ({"transform": ["rigid"]}, "transform: expected one of"),
        ({"preset": "fast"}, "preset: a registration that is only rigid has none, got 'fast'"),
        ({"method": "pddnet"}, "method: a registration that is only rigid has none, got 'pddnet'"),
        ({"metric": "mind"}, "metric: a registration that is only rigid has none, got 'mind'"),
        ({"init": "affine"}, "init: expected rigid, as the transform is that, got 'affine'"),
        ({"init": "none"}, "init: expected rigid, as the transform is that, got 'none'"),
    ],
)
def test_what_does_not_go_with_it_is_named(options: dict[str, Any], begins: str) -> None:
    images = torch.rand(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(l2rfast.InputError, match=begins):
        l2rfast.register(*images, **{"transform": "rigid", **options})


def itk_affine(path: Path, by: np.ndarray) -> Path:
    """A map of RAS, as SimpleITK writes it."""
    lps = np.diag([-1.0, -1.0, 1.0])
    linear, offset = lps @ by[:3, :3] @ lps, lps @ by[:3, 3]
    sitk.WriteTransform(sitk.AffineTransform(linear.flatten().tolist(), offset.tolist()), str(path))
    return path


@pytest.mark.parametrize("suffix", ["txt", "mat", "h5"])
def test_the_right_map_to_go_on_from_stays(scan: Volume, suffix: str, tmp_path: Path) -> None:
    by = world(60, 4, middle(scan))  # farther than it would be found
    moving = Volume(turned(scan.data, scan.affine, by), scan.affine)
    file = itk_affine(tmp_path / f"a.{suffix}", by)
    result = l2rfast.register(scan, moving, preset="fast", initial=file)
    np.testing.assert_allclose(result.initial.matrix, by, atol=1e-6)
    assert (result.initial.kind, result.options["initial"]) == ("given", str(file))
    inner = (slice(8, -8),) * 3
    assert float((result.warp(moving.data) - scan.data)[inner].square().mean()) < 2e-3
    assert float(result.displacement[0, :, 8:-8, 8:-8, 8:-8].norm(dim=0).mean()) < 0.3


def test_a_rigid_map_is_found_on_from_another(scan: Volume, tmp_path: Path) -> None:
    by, nearly = world(40, 6, middle(scan)), world(36, 4, middle(scan))
    moving = Volume(turned(scan.data, scan.affine, by), scan.affine)
    file = itk_affine(tmp_path / "a.tfm", nearly)
    result = l2rfast.register(scan, moving, transform="rigid", initial=file)
    at = np.concatenate([places(scan), np.ones((1, 8))])
    assert np.linalg.norm((result.initial.matrix - by)[:3] @ at, axis=0).mean() < 0.3 * MM
    assert (result.initial.kind, result.initial.why) == ("rigid", "asked for, from the initial transform")


def bend(size: tuple[int, ...]) -> torch.Tensor:
    """Of up to 3 voxels, 0 at the border."""
    axes = torch.meshgrid(*[torch.linspace(0, torch.pi, s) for s in size], indexing="ij")
    bump = axes[0].sin() * axes[1].sin() * axes[2].sin()
    return torch.stack([3 * bump, -2 * bump, 2 * bump])[None]


def test_a_field_to_go_on_from_is_part_of_the_displacement(scan: Volume, tmp_path: Path) -> None:
    """On a grid of its own; what SimpleITK warps by what is written is what we warp."""
    disp = bend(scan.data.shape)
    step = np.diag([2.0, 2.0, 2.0, 1.0])
    write_displacement(tmp_path / "Warp.nii.gz", disp[:, :, ::2, ::2, ::2] / 2, scan.affine @ step)
    fixed = Volume(l2rfast.warp(scan.data[None, None], disp)[0, 0], scan.affine)
    result = l2rfast.register(fixed, scan, preset="fast", initial=tmp_path / "Warp.nii.gz")  # to the last voxel but one
    inner = (slice(6, -6),) * 3
    assert float((result.displacement - disp)[0][:, *inner].norm(dim=0).mean()) < 0.3
    assert float((result.warp(scan.data) - fixed.data)[inner].abs().mean()) < 0.02
    assert (result.initial.kind, result.initial.matrix.tolist()) == ("given", np.eye(4).tolist())


def test_only_a_field_is_resampled_where_nothing_is_deformed(scan: Volume, tmp_path: Path) -> None:
    """Where ITK does, through a moving image on another grid."""
    field, header = bend(scan.data.shape), scan.affine @ np.diag([0.9, 1.1, 1.0, 1.0])
    moving = Volume(scan.data[2:], header)
    write_displacement(tmp_path / "field.nii.gz", field, scan.affine)
    found = registered(
        Method({}, lambda name, image, mask: image, lambda pair, stages: Found(torch.zeros_like(field))),
        *(
            scan,
            moving,
            "auto",
            None,
            torch.device("cpu"),
            Stages(),
            read_transform(tmp_path / "field.nii.gz", name="initial"),
        ),
    )
    write_image(tmp_path / "fixed.nii.gz", scan)
    write_image(tmp_path / "moving.nii.gz", moving)
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64))
    images = [sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("moving", "fixed")]
    inner = (slice(8, -8),) * 3
    np.testing.assert_allclose(
        found.warp(moving.data).numpy()[inner],
        sitk.GetArrayFromImage(sitk.Resample(*images, theirs)).T[inner],
        atol=1e-4,
    )


def test_what_does_not_go_with_a_transform_to_go_on_from_is_named(scan: Volume, tmp_path: Path) -> None:
    write_displacement(tmp_path / "a.nii.gz", bend(scan.data.shape), scan.affine)
    for name, kind in (("transform", "rigid"), ("init", "affine")):
        with pytest.raises(l2rfast.InputError, match=f"initial: expected a map of the world to go on from by {kind}"):
            l2rfast.register(scan, scan, initial=tmp_path / "a.nii.gz", **{name: kind})
    away = scan.affine.copy()
    away[:3, 3] += 1e3
    write_displacement(tmp_path / "b.nii.gz", bend(scan.data.shape), away)
    with pytest.raises(l2rfast.InputError, match="initial: expected a field that overlaps the fixed image"):
        l2rfast.register(scan, scan, initial=tmp_path / "b.nii.gz")
