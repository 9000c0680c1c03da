"""Pages of results: what is in them, and what browsers are told by them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from webpages import Page, read

from bench.build import build_script
from l2rfast.viewer import page, registration, volumes
from l2rfast.viewer.registration import Source

EVIL = '</script><script>alert("1")</script> & \'.nii'
SHAPE = (20, 18, 16)
# Axes of the file: to posterior, to superior, to left.
TURNED = np.array([[0, 0, -1.5, 10], [-2, 0, 0, 20], [0, 3, 0, -30], [0, 0, 0, 1.0]])


def pair(shape: tuple[int, ...] = SHAPE, affine: np.ndarray = TURNED, labels: bool = True) -> volumes.Pair:
    images = {name: torch.rand(shape) for name in ("fixed", "moving", "warped")}
    field = torch.randn(1, len(shape), *shape)
    marks = {name: torch.randint(0, 4, shape) for name in ("fixed_labels", "warped_labels")} if labels else {}
    return volumes.Pair(images, field, torch.rand(shape) < 0.01, marks, affine)


REPORT: dict[str, Any] = {
    "inputs": {
        "fixed": {"path": EVIL, "shape": [2, 2], "spacing": [1.0, 1.0]},
        "moving": {"path": "m.nii", "shape": [2, 2], "spacing": [1.0, 1.0]},
    },
    "options": {EVIL: EVIL},
    "seed": 0,
    "backend": "cpp",
    "seconds": {"reading": 1.0, "writing": 3.0, "total": 4.0},
    "peak_memory_mb": 1.0,
    "similarity": {"correlation": [0.5, 0.75], "MSE": [None, 0.5]},
    "digital_folding_percent": 0.0,
    "dice": {"mean": [0.5, 0.75], "7": [0.5, 0.75]},
    "hd95": {},
    "tre": {},
    "warnings": [EVIL],
    "verdict": [EVIL, "No folds.", "Look at it."],
    "verdict_level": "look",
    "threads": 1,
    "versions": {"l2rfast": "0"},
}


def source(scans: volumes.Embedded | None = None, **changes: Any) -> Source:
    return Source(EVIL, [["correlation", "0.5", "0.75"]], {**REPORT, **changes}, b"PNG", scans)


def test_volumes_lie_where_they_lay() -> None:
    whole = pair()
    found = volumes.embedded(whole, limit=None)
    image = read(found.files["fixed"])
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")  # type: ignore[no-untyped-call]
    assert image.header.get_zooms() == pytest.approx((1.5, 2, 3))
    place = np.array([3, 5, 7, 1])
    there = np.linalg.solve(image.affine, TURNED @ place).round().astype(int)[:3]
    assert np.asarray(image.dataobj)[tuple(there)] == float(whole.images["fixed"][3, 5, 7])
    assert read(found.files["fixed_labels"]).get_fdata()[tuple(there)] == whole.labels["fixed_labels"][3, 5, 7]
    # A vector leads to the same place of the world, in whichever voxels it is.
    field = read(found.files["displacement"])
    assert found.steps["displacement"] == [1, 1, 1]
    vector = field.get_fdata()[tuple(there)].ravel()
    expected = TURNED[:3, :3] @ whole.displacement[0, :, 3, 5, 7].numpy()
    np.testing.assert_allclose(image.affine[:3, :3] @ vector, expected, atol=1e-3)


def test_a_field_is_drawn_by_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "NODES", 8)
    whole = pair(affine=np.eye(4))
    found = volumes.embedded(whole)
    x, y, z = found.steps["displacement"]
    field = read(found.files["displacement"]).get_fdata()
    assert (x, y, z) == (2, 2, 2)
    assert field.shape == (10, 9, 8, 1, 3)
    np.testing.assert_allclose(field[1, 0, 0, 0], whole.displacement[0, :, 2:4, :2, :2].mean((1, 2, 3)), atol=1e-3)


def test_images_are_bytes_within_their_window() -> None:
    whole = pair(affine=np.eye(4))
    image = read(volumes.embedded(whole).files["fixed"])
    low, high = whole.windows()["fixed"]
    assert image.get_data_dtype() == np.uint8
    expected = whole.images["fixed"].clamp(low, high).numpy()
    np.testing.assert_allclose(image.get_fdata(), expected, atol=0.51 * (high - low) / 254)


def test_what_is_too_large_becomes_coarser_and_the_page_says_so() -> None:
    affine = np.diag([1.0, 1, 5, 1])
    full = volumes.embedded(pair(affine=affine))
    found = volumes.embedded(pair(affine=affine), limit=int(0.8 * sum(map(len, full.files.values()))))
    assert sum(map(len, found.files.values())) < 0.8 * sum(map(len, full.files.values()))
    assert found.steps["fixed"][2] == 1 < found.steps["fixed"][0]  # along the finest axes first
    size = read(found.files["fixed"]).shape
    assert size == tuple(-(-n // step) for n, step in zip(SHAPE, found.steps["fixed"], strict=True))
    assert f"of {' x '.join(map(str, SHAPE))}" in found.note
    assert full.note.startswith("So that the page stays small: all 20 x 18 x 16 voxels")


def test_a_coarser_volume_lies_in_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "VOXELS", 1000)
    whole = pair(affine=np.eye(4))
    found = volumes.embedded(whole)
    image, (x, y, z) = read(found.files["fixed"]), found.steps["fixed"]
    low, high = whole.windows()["fixed"]
    mean = float(whole.images["fixed"][:x, :y, :z].clamp(low, high).mean())
    assert image.get_fdata()[0, 0, 0] == pytest.approx(mean, abs=0.01)
    np.testing.assert_allclose(image.affine[:3, 3], [(step - 1) / 2 for step in (x, y, z)])
    folds = read(found.files["folds"]).get_fdata()
    assert folds.sum()
    assert folds.shape == image.shape


def test_a_slice_is_a_volume_of_one() -> None:
    found = volumes.embedded(pair((20, 18), np.eye(4)))
    assert read(found.files["fixed"]).shape == (20, 18, 1)
    field = read(found.files["displacement"])
    assert field.shape == (20, 18, 1, 1, 3)
    assert not field.get_fdata()[..., 2].any()


def test_values_that_are_not_there_are_black() -> None:
    one = pair(affine=np.eye(4))
    one.images["warped"][0] = torch.nan
    low, _ = one.windows()["warped"]
    assert read(volumes.embedded(one).files["warped"]).get_fdata()[0] == pytest.approx(low)


def test_nothing_that_is_read_is_run() -> None:
    scans = volumes.embedded(pair())
    text = registration.registration(source(scans))
    read = Page(text)
    kinds = [attributes.get("type") for tag, attributes in read.elements if tag == "script"]
    assert kinds == ["application/json", *["text/plain"] * (1 + len(scans.files)), None]
    assert "alert" not in "".join(read.scripts)
    assert read.text.count(EVIL) >= 5  # the title, the heading, the file, the verdict, the warning
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]


def test_json_in_a_page_cannot_end_its_element() -> None:
    text = page.data("x", {"a": EVIL})
    assert "</script><" not in text.removesuffix("</script>")
    assert json.loads(text.split(">", 1)[1].removesuffix("</script>")) == {"a": EVIL}


@pytest.mark.parametrize("kind", ["scans", "light"])
def test_a_page_asks_for_nothing(kind: str) -> None:
    read = Page(registration.registration(source(volumes.embedded(pair()) if kind == "scans" else None)))
    places = [a[name] for _, a in read.elements for name in ("src", "href", "data", "action") if name in a]
    assert places
    assert all(str(place).startswith("data:") for place in places)
    policy = read.policy()
    assert policy["default-src"] == policy["connect-src"] == ["'none'"]
    assert policy["img-src"] == ["'self'", "file:", "data:", "blob:"]
    assert "'unsafe-inline'" not in policy["script-src"]


def test_scripts_are_known_by_their_hashes() -> None:
    scans = volumes.embedded(pair())
    read, viewer = Page(registration.registration(source(scans))), registration.niivue()
    if viewer is None:
        pytest.skip("built without NiiVue")
    run = [read.scripts[-1], viewer.script]
    assert read.policy()["script-src"] == [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in run
    ]
    assert "function" in read.scripts[-1]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    light = Page(registration.registration(source()))
    assert "l2rfast view" in light.text
    assert not light.scripts
    monkeypatch.setattr(registration, "niivue", lambda: None)
    without = Page(registration.registration(source(volumes.embedded(pair()))))
    assert "built without NiiVue" in without.text
    assert not without.scripts
    assert [a for tag, a in without.elements if tag == "img"]


def test_bars_are_as_long_as_values() -> None:
    drawn = page.bars([(0.25, "before"), (3.0, "after"), (float("nan"), "after")], 1)
    assert re.findall(r'width="([\d.]+)"', drawn) == ["25", "100", "0"]


def test_a_build_without_npm_says_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup: Any = build_script()
    monkeypatch.setattr(setup, "VIEWER", tmp_path / "niivue.js.gz")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "niivue.js.gz").write_bytes(gzip.compress(b"another"))
    setup.get_viewer()
    assert capsys.readouterr().out.count("\n") == 1
    assert not (tmp_path / "niivue.js.gz").exists()
    # What comes is checked.
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\n: > niivue.tgz\n")
    npm.chmod(0o755)
    setup.get_viewer()
    assert "another package came than was expected" in capsys.readouterr().out
    assert not (tmp_path / "niivue.js.gz").exists()
