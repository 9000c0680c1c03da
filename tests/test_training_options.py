"""What cannot be trained: options and scans that are named in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from runs import train

from l2rfast.io import Volume, write_image


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        (["--steps=0"], "--steps: expected an integer >= 1"),
        (["--batch=0"], "--batch: expected"),
        (["--rate=-1"], "--rate: expected a number from 0"),
        (["--rate=nan"], "--rate: expected a number from 0"),
        (["--rate=1e38"], "--rate: expected a number from 0 to 1e+36"),
        (["--scale=1000"], "--scale: expected a number from 0 to 10"),
        (["--bad-scans=ignore"], "--bad-scans: expected one of stop, skip"),
        (["--affine=1"], "--affine: expected a number from 0 to 1"),
        (["--mirror=2"], "--mirror: expected axes from 0 to 1, got (2,)"),
        (["--precision=float16"], "--precision: expected"),
        (["--similarity=ssim"], "--similarity: expected one of lncc, mse, mind"),
        (["--window=4"], "--window: expected a positive odd number"),
        (["--smoothness=-1"], "--smoothness: expected"),
        (["--bidirectional"], "--bidirectional: expected a network with velocity"),
        (["--half"], "--half, --probabilistic: expected a network with velocity"),
        (["--encoder=4,x"], "--encoder: expected integers"),
        (["--decoder=4"], "--decoder: expected at least"),
        (["--weights=absent.safetensors"], "--weights: cannot use absent.safetensors"),
        (["--data=absent"], "--data: expected a folder"),
        (["--device=nowhere"], "--device: cannot use"),
        (["--rate=1e30", "--steps=5"], "--rate: the losses of step"),
    ],
)
def test_wrong_options_are_named(options: list[str], begins: str, scans: Path, tmp_path: Path) -> None:
    code, error = train(scans, tmp_path / "run", *options)
    assert code == 2
    assert error.startswith(f"l2rfast: error: {begins}"), error


def test_a_folder_that_cannot_be_written_is_named(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, error = train(scans, tmp_path / "file")
    assert code == 2
    assert error.startswith(f"l2rfast: error: --out: {tmp_path}/file: expected a folder that can be written")


def test_scans_that_do_not_fit_are_named(scans: Path, tmp_path: Path) -> None:
    datasets.write(tmp_path / "scans", 2, (20, 40))
    folder = tmp_path / "scans"
    for i in range(2):
        (folder / "images" / f"case{i}.nii.gz").rename(folder / "images" / f"other{i}.nii.gz")
        (folder / "labels" / f"case{i}.nii.gz").unlink()
    for file in (scans / "images").iterdir():
        (folder / "images" / file.name).write_bytes(file.read_bytes())
    code, error = train(folder, tmp_path / "run", "--hold-out=0", "--batch=4", "--steps=20")
    found = f"(30, 26) of {folder / 'images' / 'case0.nii.gz'} and (20, 40) of {folder}/images/other"
    assert code == 2
    assert error.startswith(f"l2rfast: error: --batch: expected 1, or scans of one size, got {found}")
    code, error = train(folder, tmp_path / "other", "--hold-out=0", "--segmentation=1")
    assert code == 2
    assert error.startswith("l2rfast: error: --segmentation: expected labels of every scan")


def test_scans_of_fewer_axes_among_others_are_named(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans / "images", tmp_path / "scans")
    other = tmp_path / "scans" / "other.nii.gz"
    write_image(other, Volume(torch.rand(20, 20, 20), np.eye(4)))
    found = f"{tmp_path / 'scans' / 'case0.nii.gz'} and {other}"
    expected = f"l2rfast: error: --data: expected scans of as many axes, got {found}\n"
    for kept in ("--hold-out=2", "--hold-out=0"):  # for validation, and to train on
        assert train(tmp_path / "scans", tmp_path / kept, kept, "--steps=100") == (2, expected)
