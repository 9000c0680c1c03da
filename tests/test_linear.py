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
from l2rfast.cli.demo import synthetic_pair
from l2rfast.io import Volume, read_displacement, read_image, write_image

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
