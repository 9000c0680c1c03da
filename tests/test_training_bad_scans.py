"""Training with a scan that cannot be used: it is named, and ends the run or is skipped; and losses that diverge."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import invoke, same_run, train
from safetensors.torch import load_file

from l2rfast.io import Volume, as_volume, write_image
from l2rfast.methods.training import trainer
from l2rfast.methods.unsupervised.network import VoxelMorph
from l2rfast.methods.unsupervised.training import UnsupervisedTask

WEAK = ("--width=2", "--resolution=2", "--rate=1e-3")
METHODS = {
    "unsupervised": ("--encoder=4,4", "--decoder=4,4,4,4", "--segmentation=1"),
    "discrete": ("--loss=labels", "--radius=2"),
    "weakly-supervised": (*WEAK, "--shift=0"),
}
TO_TRAIN_ON = "case1"  # the last two of the six are held out


def volume(data: torch.Tensor) -> Volume:
    return Volume(data, np.eye(4))


def with_nan(file: Path) -> None:
    data = as_volume("image", file, dims=(2,)).data
    data[3, 4] = torch.nan
    write_image(file, volume(data))


SPOILED = {
    "NaN": ("images", with_nan, "expected finite values, but 1 of 780 voxels are NaN"),
    "constant": ("images", lambda file: write_image(file, volume(torch.ones(30, 26))), "every voxel has the value 1"),
    "unreadable": ("images", lambda file: file.write_bytes(file.read_bytes()[:90]), ""),
    "other axes": ("images", lambda file: write_image(file, volume(torch.rand(9, 20, 20))), ""),
    "other size": ("labels", lambda file: write_image(file, volume(torch.ones(20, 20).byte())), "expected the shape"),
    "no labels": ("labels", lambda file: write_image(file, volume(torch.zeros(30, 26).byte())), "expected labels"),
}


def spoiled(scans: Path, folder: Path, what: str, case: str) -> Path:
    """The data with one scan that cannot be used; its file."""
    shutil.copytree(scans, folder)
    kind, spoil, _ = SPOILED[what]
    file = folder / kind / f"{case}.nii.gz"
    spoil(file)
    if what == "other axes":
        write_image(folder / "labels" / file.name, volume(torch.ones(9, 20, 20).byte()))
    return file


def run(method: str, data: Path, out: Path, *options: str) -> tuple[int, str]:
    words = ("train", method, f"--data={data}", f"--out={out}", "--hold-out=2", "--quiet", "--steps=12", "--every=6")
    return invoke(*words, "--batch=1", *METHODS[method], *options)


@pytest.mark.parametrize(
    ("what", "method"),
    [
        ("NaN", "unsupervised"),
        ("NaN", "discrete"),
        ("NaN", "weakly-supervised"),
        ("constant", "unsupervised"),
        ("unreadable", "discrete"),
        ("other axes", "weakly-supervised"),
        ("other axes", "unsupervised"),
        ("other size", "unsupervised"),
        ("no labels", "unsupervised"),
        ("no labels", "weakly-supervised"),
    ],
)
def test_a_bad_scan_is_named_and_ends_training_or_is_skipped(
    what: str, method: str, scans: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    file, said = spoiled(scans, data, what, TO_TRAIN_ON), SPOILED[what][2]
    code, error = run(method, data, out)
    assert code == 2
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("l2rfast: error: --data")
    assert str(file) in lines[0]
    assert said in lines[0]
    code, error = run(method, data, out, "--bad-scans=skip", "--resume")
    assert code == 0, error
    assert f"{lines[0].replace('error', 'warning', 1)}; skipped" in error.splitlines()
    assert all(str(file) in line for line in error.splitlines())


def test_the_first_scan_and_those_for_validation_are_skipped_too(scans: Path, tmp_path: Path) -> None:
    """And a run that is interrupted goes on to the same bits, also where the option is given then."""
    data = tmp_path / "data"
    first, last = spoiled(scans, data, "NaN", "case0"), data / "images" / "case5.nii.gz"
    assert run("unsupervised", data, tmp_path / "stopped")[0] == 2
    with_nan(last)
    code, error = run("unsupervised", data, tmp_path / "run", "--bad-scans=skip")
    assert (code, [line.endswith("skipped") for line in error.splitlines()]) == (2, [True] * 2 + [False])
    assert error.splitlines()[-1].endswith("expected scans to validate with, but not one pair of them can be used")
    shutil.copy(scans / "images" / last.name, last)
    shutil.rmtree(tmp_path / "run")
    code, error = run("unsupervised", data, tmp_path / "run", "--bad-scans=skip")
    assert code == 0, error
    assert str(first) in error
    assert run("unsupervised", data, tmp_path / "parts", "--bad-scans=skip", "--steps=6")[0] == 0
    assert run("unsupervised", data, tmp_path / "parts", "--bad-scans=skip", "--resume")[0] == 0
    assert same_run(tmp_path / "parts", tmp_path / "run")


def test_where_no_scan_can_be_used_there_is_nothing_to_skip_to(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "data")
    for file in (tmp_path / "data" / "images").iterdir():
        with_nan(file)
    code, error = run("unsupervised", tmp_path / "data", tmp_path / "run", "--bad-scans=skip")
    assert code == 2
    assert "error: --data: expected scans that can be used, and found none; the last: " in error.splitlines()[-1]


def test_scans_that_share_no_label_are_named(scans: Path, tmp_path: Path) -> None:
    """Nothing is trained on the background instead."""
    data = tmp_path / "data"
    shutil.copytree(scans, data)
    file = data / "labels" / "case0.nii.gz"
    write_image(file, volume(200 * (as_volume("labels", file, dims=(2,)).data > 0).byte()))
    for method in METHODS:
        code, error = run(method, data, tmp_path / method, "--steps=40")
        assert code == 2
        assert error.startswith("l2rfast: error: --data: expected a label that both ")
        assert str(data / "images" / "case0.nii.gz") in error


def test_what_diverges_is_named_and_the_checkpoint_before_is_kept(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is not finite, in the third step; and gradients that are not, of a loss that is."""
    train(scans, tmp_path / "whole", "--steps=2", "--every=2")
    kept = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    real, steps = VoxelMorph.forward, 0

    def diverging(self: VoxelMorph, *images: torch.Tensor) -> object:
        nonlocal steps
        found = real(self, *images)
        if self.training:
            steps += 1
            if steps == 3:
                found.displacement.register_hook(lambda gradient: gradient * torch.nan)
                if how == "losses":
                    found.displacement.data.fill_(torch.nan)
        return found

    monkeypatch.setattr(VoxelMorph, "forward", diverging)
    for how in ("losses", "gradients"):
        steps = 0
        code, error = train(scans, tmp_path / how, "--steps=4", "--every=2")
        assert code == 2
        assert error.startswith(f"l2rfast: error: --rate: the {how} of step 3 are not finite")
        assert error.count("\n") == 1
        assert error.count(str(scans / "images")) == 2  # the pair
        after = load_file(tmp_path / how / "checkpoint.safetensors")
        assert all(torch.equal(value, after[name]) for name, value in kept.items())


@pytest.mark.parametrize("what", ["NaN", "killed"])
def test_processes_that_read_scans_say_one_sentence(
    what: str, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do for GPUs: of a scan that cannot be used, and where one of them was killed."""
    data = tmp_path / "data"
    monkeypatch.setattr(trainer, "_workers", lambda device: 1)
    if what == "NaN":
        file = spoiled(scans, data, what, TO_TRAIN_ON)
    else:
        shutil.copytree(scans, data)
        parent, sample = os.getpid(), UnsupervisedTask.sample

        def killed(self: UnsupervisedTask, random: torch.Generator) -> dict[str, torch.Tensor]:
            if os.getpid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
            return sample(self, random)

        monkeypatch.setattr(UnsupervisedTask, "sample", killed)
    code, error = run("unsupervised", data, tmp_path / "run")
    assert (code, error.count("\n")) == (2, 1), error
    if what == "NaN":
        assert error.startswith(f"l2rfast: error: --data ({file}): expected finite values")
    else:
        assert "a process that read scans of step 1 has ended" in error
