"""The benchmark of painted images: what is compared, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import painting
from l2rfast.data.painted import label_map


def test_theirs_is_an_image_of_a_label_map_that_was_moved() -> None:
    labels = label_map((32, 32, 32), torch.Generator().manual_seed(0))
    image, moved = painting.theirs(labels)
    assert image.shape == moved.shape == labels.shape
    assert image.aminmax() == (0, 1)
    assert set(moved.unique().tolist()) <= {*labels.unique().tolist(), 0}
    assert not torch.equal(moved, labels.float())


def test_the_page_tells_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert painting.main(["--size=16", "--repetitions=2", "--threads=1", f"--out={tmp_path}"]) == 0
    record = json.loads((tmp_path / "painting.json").read_text())
    assert {name: len(values) for name, values in record["seconds"].items()} == {painting.OURS: 2, painting.THEIRS: 2}
    assert f"Theirs takes {painting.digits(record['times_faster'])} times as long" in capsys.readouterr().out
