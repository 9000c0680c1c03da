"""Messages of the command line name options as they are typed, and arguments as they are called."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from l2rfast import InputError, cli, register
from l2rfast.cli.names import Command, as_typed
from l2rfast.cli.notices import notices
from l2rfast.errors import InputWarning
from l2rfast.io import write_affine


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        data = np.random.default_rng(0).random((12, 12, 12), np.float32)
        nib.save(nib.Nifti1Image(data, np.eye(4)), f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.full((12, 12, 12), -1, np.int16), np.eye(4)), "labels.nii.gz")
    write_affine("affine.txt", np.eye(4))
    Path("flirt.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")


REGISTER = ("register", "a.nii.gz", "b.nii.gz", "--out=out", "--quiet")
APPLY = ("apply", "a.nii.gz", "--reference=b.nii.gz", "--out=c.nii.gz")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*APPLY, "--interpolation=best"), "--interpolation: expected one of"),
        ((*REGISTER, "--preset=best"), "--preset: expected one of"),
        ((*REGISTER, "--init-metric=best"), "--init-metric: expected one of"),
        ((*REGISTER, "--weight=1", "--method=pddnet"), "--weight: of contrasts, which only --method discrete has"),
        ((*REGISTER, "--weights=no.h5"), "--weights: a network's, and the method discrete has none, got 'no.h5'"),
        ((*REGISTER, "--weight=-1"), "--weight: expected numbers, none below 0"),
        ((*REGISTER, "--weight=nan"), "--weight: expected numbers, none below 0"),
        ((*REGISTER, "--weight=1", "--weight=2"), "--weight: expected one for each contrast, 1, got 2"),
        (
            (*REGISTER, "--method=unsupervised", "--weights=no.h5"),
            "--weights: cannot use no.h5: No such file",
        ),
        ((*REGISTER, "--metric=mi", "--window=9"), "--window: of the metric lncc, got it beside mi"),
        ((*REGISTER, "--metric=mind", "--step-spacing=2"), "--step-spacing: of the metric lncc, got it beside mind"),
        (
            (*REGISTER, "--metric=lncc", "--metric=mind", "--step-spacing=2"),
            "--step-spacing: of the metric lncc, got it beside mind",
        ),
        (("register", "no.nii.gz", "b.nii.gz", "--out=out", "--outside=inf"), "--outside: expected a number that"),
        ((*REGISTER, "--outside=inf"), "--outside: expected a number that torch.float32 holds, got inf"),
        (
            (*REGISTER, "--fixed-labels=labels.nii.gz", "--moving-labels=labels.nii.gz"),
            "--fixed-labels (labels.nii.gz): expected labels",
        ),
        (("register", "no.nii.gz", "b.nii.gz", "--out=out", "--quiet"), "FIXED (no.nii.gz): expected"),
        (("convert", "affine.txt", "--out=c.nii.gz"), "--fixed: expected the fixed image, at whose voxels"),
        (("convert", "affine.txt", "--out=c.txt", "--to=best"), "--to: expected one of"),
        (("convert", "flirt:flirt.mat", "--out=c.txt"), "transform (flirt.mat): --fixed: expected the fixed image"),
        # An inverse is written at the voxels of moving, and a matrix of the inverse goes from moving to fixed.
        (("invert", "affine.txt", "--out=c.nii.gz"), "--moving: expected the moving image, at whose voxels"),
        (
            ("convert", "inverse:flirt:flirt.mat", "--out=c.txt"),
            "transform (flirt.mat): --moving: expected the moving image",
        ),
        (("jacobian", "affine.txt", "--out=c.nii.gz"), "--fixed: expected the fixed image, at whose voxels"),
        (("train", "unsupervised", "--data=no", "--out=out", "--quiet"), "--data: expected"),
        (("train", "unsupervised", "--data=.", "--out=out", "--encoder=4,x"), "--encoder: expected integers"),
        (("evaluate", "--data=no", "--out=out"), "--data: expected"),
    ],
)
def test_options_are_named_as_they_are_typed(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"l2rfast: error: {said}")


def test_so_they_are_in_warnings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    monkeypatch.setattr(Command, "running", commands["evaluate"])
    with notices() as said:
        for text in ("data: none", "hold_out, atlas: both", "nothing (data): here", "case (a.nii): data: none"):
            warnings.warn(text, InputWarning, stacklevel=1)
    assert said == [
        "--data: none",
        "--hold-out, --atlas: both",
        "nothing (data): here",
        "case (a.nii): --data: none",
    ]
    assert capsys.readouterr().err == "".join(f"l2rfast: warning: {text}\n" for text in said)


def test_in_python_they_keep_their_names() -> None:
    CliRunner().invoke(cli.app, [*REGISTER, "--preset=best"])
    with pytest.raises(InputError, match=r"^preset: expected one of"):
        register("a.nii.gz", "b.nii.gz", preset="best")
    assert as_typed("fixed_labels: expected labels") == "fixed_labels: expected labels"
