"""The benchmark of the network that comes with the package: what is painted, and its page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import invoke

from bench import learned
from bench.registration import load_pair
from l2rfast.methods.unsupervised import Pyramid


def test_contrasts_of_an_image() -> None:
    image = torch.tensor([0.0, 64, 255])
    assert learned.inverted(image).tolist() == [0, 191, 0]
    assert learned.darker(image).tolist() == pytest.approx([0, 127.75, 255], abs=0.01)


def test_fluid_is_bright_and_white_matter_darker_than_grey_as_t2_shows_them(real_data: Path) -> None:
    _, moving, (_, labels) = load_pair()
    image = learned.as_t2(moving.data)
    assert image.shape == moving.data.shape
    fluid, grey, white, pallidum = (image[labels == label].median() for label in (4, 3, 2, 13))
    assert fluid > 2 * grey
    assert 1.2 < grey / white < 1.5
    assert pallidum < white
    assert image[(moving.data == 0) & (labels == 0)].median() == 0


def test_painted_in_its_own_contrast_every_structure_is_as_bright_as_it_was(real_data: Path) -> None:
    _, moving, (_, labels) = load_pair()
    image = learned.as_t1(moving.data)
    assert image.shape == moving.data.shape
    for label in (2, 3, 10):
        inside = labels == label
        assert float(image[inside].median()) == pytest.approx(float(moving.data[inside].median()), rel=0.05)
        assert image[inside].std() < moving.data[inside].std()


def test_a_run_is_taken_over_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--preset=cpu-synthetic", "--size=32,32,32", "--maps=2", "--steps=2", "--every=1", "--quiet")
    assert invoke("train", "unsupervised", *options, f"--out={tmp_path / 'run'}") == (0, "")
    monkeypatch.setattr(learned, "LEARNED", tmp_path / "shipped" / "learned.safetensors")
    assert learned.main(["ship", str(tmp_path / "run"), f"--out={tmp_path / 'reports'}"]) == 0
    record = json.loads((tmp_path / "reports" / "learned.json").read_text())
    assert len(record["training"]["losses"]) == 2
    assert "2 steps on pairs of 32 x 32 x 32 voxels painted from 2 random label maps" in capsys.readouterr().out
    trained, shipped = (
        Pyramid.load(tmp_path / name) for name in ("run/weights.safetensors", "shipped/learned.safetensors")
    )
    for one, other in zip(trained.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)
    shutil.rmtree(tmp_path / "run")
    assert learned.main(["ship", str(tmp_path / "run"), f"--out={tmp_path / 'reports'}"]) == 1
    assert "path: cannot use" in capsys.readouterr().err


def test_the_table_has_a_row_for_every_contrast() -> None:
    one = {"dice": 0.75, "folded_percent": 0.0, "seconds": 3.0, "others": 0.0}
    busy = {**one, "others": 1.5}
    of = {name: busy if name == "discrete" else one for name in learned.METHOD_OPTIONS}
    text = learned.compared({"before": 0.5, "contrasts": {"T1 to T1": of, "inverted": of}})
    assert text.count("| 0.500 | 0.750 | 0.0000 | 3.00 |") == 2
    assert "3.00\\* (1.5) |" in text
