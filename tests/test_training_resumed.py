"""Runs of training that were ended, on VoxelMorph and small generated scans: they go on to the same bits."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import PATIENCE, command, same_run, train, until
from safetensors import safe_open
from safetensors.torch import load_file, save_file

AUGMENTED = ("--steps=60", "--every=10", "--batch=2", "--affine=0.1", "--intensity=0.1")
AUGMENTED += ("--velocity", "--probabilistic")


@pytest.fixture(scope="module")
def whole(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert train(scans, out, *AUGMENTED) == (0, "")
    torch.set_num_threads(before)
    return out


@pytest.mark.parametrize("after", [0, 1, 25])
def test_a_killed_run_is_resumed_to_the_same_bits(scans: Path, whole: Path, tmp_path: Path, after: int) -> None:
    """Killed before anything is written, before the first checkpoint, and between two."""
    out = tmp_path / "run"
    script = "import sys, torch; torch.set_num_threads(1); from l2rfast import cli; cli.main()"
    process = subprocess.Popen([sys.executable, "-c", script, *command(scans, out, *AUGMENTED)])
    log = out / "training.csv"
    until(lambda: not after or (log.exists() and len(log.read_text().splitlines()) > after), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # What the moment between two system calls may leave.
    if after:
        log.write_text(log.read_text() + "99,0.5")
        (out / f".l2rfast-{'0' * 32}").mkdir()
    assert train(scans, out, *AUGMENTED, "--resume") == (0, "")
    assert same_run(out, whole)
    assert not list(out.glob(".l2rfast-*"))


def test_a_run_can_be_made_longer(scans: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(scans, out, *AUGMENTED, "--steps=20")
    assert train(scans, out, *AUGMENTED, "--resume") == (0, "")
    assert same_run(out, whole)


def test_what_a_run_is_not_resumed_with(scans: Path, whole: Path, tmp_path: Path) -> None:
    content = {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    code, error = train(scans, whole, *AUGMENTED)
    assert code == 2
    assert error.startswith(f"l2rfast: error: --out: a run is in {whole} already; go on with it by --resume")
    code, error = train(scans, whole, *AUGMENTED, "--resume", "--seed=1")
    assert (code, error) == (2, "l2rfast: error: --seed: expected 0, as in the run to resume, got 1\n")
    assert content == {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    train(scans, tmp_path / "cosine", *AUGMENTED, "--cosine", "--steps=2")
    code, error = train(scans, tmp_path / "cosine", *AUGMENTED, "--cosine", "--steps=3", "--resume")
    why = "expected 2, as in the run to resume, over whose steps the cosine falls, got 3"
    assert (code, error) == (2, f"l2rfast: error: --steps: {why}\n")
    for name, damage in (("checkpoint.safetensors", b"no"), ("options.json", b"{")):
        out = tmp_path / name
        train(scans, out, *AUGMENTED, "--steps=2")
        (out / name).write_bytes(damage)
        code, error = train(scans, out, *AUGMENTED, "--steps=2", "--resume")
        assert code == 2
        assert error.startswith("l2rfast: error: --out: ")
        assert str(out / name) in error


def test_an_interrupt_says_how_to_go_on(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = command(scans, out, "--steps=1000000")
    process = subprocess.Popen(
        [sys.executable, "-c", "from l2rfast import cli; cli.main()", *arguments], stderr=subprocess.PIPE, text=True
    )
    until((out / "training.csv").exists, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert error == f"l2rfast: interrupted; --resume goes on from the last checkpoint in {out}\n"


def test_a_run_goes_on_where_the_data_have_moved(scans: Path, whole: Path, tmp_path: Path) -> None:
    """They are the same data: case by case of one name, with what there is of each, and one size."""
    out, moved_to = tmp_path / "run", tmp_path / "elsewhere"
    train(scans, out, *AUGMENTED, "--steps=20")
    shutil.copytree(scans, moved_to)
    assert train(moved_to, out, *AUGMENTED, "--resume") == (0, "")
    assert same_run(out, whole)
    assert json.loads((out / "options.json").read_text())["data"] == str(moved_to)
    for what in ("images", "labels"):
        (moved_to / what / "case0.nii.gz").rename(moved_to / what / "another.nii.gz")
    code, error = train(moved_to, out, *AUGMENTED, "--resume")
    assert code == 2
    assert error.startswith("l2rfast: error: --data: expected '12 pairs, 2 for validation, ")


def test_the_weights_that_a_run_began_with_may_move_too(scans: Path, tmp_path: Path) -> None:
    train(scans, tmp_path / "first", "--steps=1")
    options = ("--steps=4", "--every=2", f"--weights={tmp_path / 'first' / 'weights.safetensors'}")
    for name in ("whole", "parts"):
        train(scans, tmp_path / name, *options, *(["--steps=2"] if name == "parts" else []))
    (tmp_path / "first").rename(tmp_path / "second")
    elsewhere = f"--weights={tmp_path / 'second' / 'weights.safetensors'}"
    assert train(scans, tmp_path / "parts", *options, elsewhere, "--resume") == (0, "")
    assert same_run(tmp_path / "parts", tmp_path / "whole")
    train(scans, tmp_path / "wide", "--steps=1", "--encoder=6,4")
    wide = f"--weights={tmp_path / 'wide' / 'weights.safetensors'}"
    code, error = train(scans, tmp_path / "parts", *options, wide, "--steps=6", "--resume")
    said = "expected those that the run to resume began with, or alike"
    assert (code, error) == (2, f"l2rfast: error: --weights: {said}\n")


def test_a_run_of_a_version_with_fewer_options_goes_on(scans: Path, whole: Path, tmp_path: Path) -> None:
    """What is not among its options is as it was before there was such an option."""
    out = tmp_path / "run"
    train(scans, out, *AUGMENTED, "--steps=20")
    options = json.loads((out / "options.json").read_text())
    (out / "options.json").write_text(json.dumps({n: v for n, v in options.items() if n not in ("cases", "scale")}))
    with safe_open(out / "checkpoint.safetensors", "pt") as opened:
        numbers = json.loads(opened.metadata()["run"])
    assert numbers.pop("score") == "DSC"
    save_file(load_file(out / "checkpoint.safetensors"), out / "checkpoint.safetensors", {"run": json.dumps(numbers)})
    code, error = train(scans, out, *AUGMENTED, "--resume", "--scale=0.1")
    assert (code, error) == (2, "l2rfast: error: --scale: expected 0.0, as in the run to resume, got 0.1\n")
    assert train(scans, out, *AUGMENTED, "--resume") == (0, "")
    assert same_run(out, whole)
