"""The trainer, on VoxelMorph and small generated scans: what a run leaves, and what it is given."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from runs import events, rows, train
from safetensors.torch import load_file

import l2rfast
from l2rfast.io import Volume, write_image
from l2rfast.methods.unsupervised import VoxelMorph


def test_what_a_run_leaves(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "first"
    assert train(scans, out, "--steps=5", "--every=2", "--velocity") == (0, "")
    names = ["checkpoint.safetensors", "curves.png", "options.json", "tensorboard", "training.csv", "validation.csv"]
    assert sorted(f.name for f in out.iterdir()) == [*names, "weights.json", "weights.safetensors"]
    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows(out, "validation")] == [0, 2, 4, 5]
    for row in rows(out):
        assert row["loss"] == pytest.approx(row["similarity"] + row["smoothness"], abs=1e-6)
    assert set(rows(out, "validation")[0]) == {"step", "DSC", "LogJacDetStd", "num_foldings", "digital_foldings"}
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    options = json.loads((out / "options.json").read_text())
    assert (options["method"], options["velocity"], options["steps"]) == ("unsupervised", True, 5)
    assert VoxelMorph.load(out / "weights.safetensors").architecture.velocity
    modes = {(out / name).stat().st_mode for name in (*names[:3], "weights.safetensors")}
    assert len(modes) == 1


def test_tensorboards_scalars_and_pictures(scans: Path, tmp_path: Path) -> None:
    train(scans, tmp_path / "run", "--steps=4", "--every=2")
    found: dict[str, list[int]] = {}
    for event in events(tmp_path / "run" / "tensorboard"):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    assert found["training/loss"] == found["training/smoothness"] == [1, 2, 3, 4]
    assert found["validation/DSC"] == found["validation"] == [0, 2, 4]


def test_the_weights_are_those_of_the_best_validation(scans: Path, tmp_path: Path) -> None:
    """With a rate that spoils the network, a later one is worse; training then stops early."""
    out = tmp_path / "run"
    code, _ = train(scans, out, "--steps=40", "--every=2", "--patience=3", "--rate=0.05")
    assert code == 0
    scores = [row["DSC"] for row in rows(out, "validation")]
    steps = [int(row["step"]) for row in rows(out, "validation")]
    best = max(range(len(scores)), key=lambda i: scores[i])
    assert len(rows(out)) == steps[-1] < 40
    assert steps[-1] - steps[best] == 3 * 2
    until = tmp_path / "until"
    train(scans, until, f"--steps={max(steps[best], 1)}", "--every=2", "--rate=0.05")
    kept, expected = (load_file(run / "weights.safetensors") for run in (out, until))
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_without_validation_the_last_weights_are_kept(scans: Path, tmp_path: Path) -> None:
    train(scans, tmp_path / "run", "--hold-out=0", "--steps=3")
    weights, state = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "checkpoint"))
    assert all(torch.equal(value, state[f"task.network.{name}"]) for name, value in weights.items())
    assert not (tmp_path / "run" / "validation.csv").exists()


def test_it_learns_to_register_subjects_it_has_not_seen(tmp_path: Path) -> None:
    datasets.write(tmp_path / "scans", 10, (48, 40), deformation=0.03)
    wider = ("--encoder=8,8,8", "--decoder=8,8,8,8,8", "--rate=3e-3", "--similarity=mse", "--batch=4")
    train(tmp_path / "scans", tmp_path / "run", *wider, "--steps=200", "--every=200")
    before, after = (row["DSC"] for row in rows(tmp_path / "run", "validation"))
    assert after > before + 0.04
    assert np.mean([row["loss"] for row in rows(tmp_path / "run")[-10:]]) < 0.5 * rows(tmp_path / "run")[0]["loss"]


def test_bfloat16_trains_the_same_network_less_exactly(scans: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        train(scans, tmp_path / precision, "--steps=3", f"--precision={precision}")
    exact, narrow = (rows(tmp_path / precision) for precision in ("float32", "bfloat16"))
    assert exact[0]["loss"] != narrow[0]["loss"]
    assert exact[0]["loss"] == pytest.approx(narrow[0]["loss"], abs=1e-3)
    dtypes = {tensor.dtype for tensor in load_file(tmp_path / "bfloat16" / "weights.safetensors").values()}
    assert dtypes == {torch.float32}


def test_the_unit_of_intensities_is_of_no_account(scans: Path, tmp_path: Path) -> None:
    """Images in HU or of 12 bits train as those from 0 to 1 do."""
    runs = []
    for name, factor, offset in (("unit", 1, 0), ("ct", 2000, -1000), ("bits", 4095, 0)):
        (tmp_path / name).mkdir()
        for file in sorted((scans / "images").iterdir())[:3]:
            image = l2rfast.io.as_volume("image", file, dims=(2,)).data
            low, high = image.aminmax()
            scaled = (image - low) / (high - low)
            write_image(tmp_path / name / file.name, Volume(factor * scaled + offset, np.eye(4)))
        assert train(tmp_path / name, tmp_path / f"{name}-run", "--steps=4", "--hold-out=0") == (0, "")
        runs.append([row | {"seconds": 0} for row in rows(tmp_path / f"{name}-run")])
    for rows_of_a_step in zip(*runs, strict=True):
        for other in rows_of_a_step[1:]:
            assert other == pytest.approx(rows_of_a_step[0], rel=1e-4)


def test_published_or_own_weights_are_a_start(scans: Path, tmp_path: Path) -> None:
    train(scans, tmp_path / "first", "--steps=5")
    weights = tmp_path / "first" / "weights.safetensors"
    train(scans, tmp_path / "second", "--steps=1", "--rate=0", f"--weights={weights}")
    first, second = load_file(weights), load_file(tmp_path / "second" / "weights.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
