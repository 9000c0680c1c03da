"""The trainer, on VoxelMorph and small generated scans: the run folder, resuming, several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from runs import command, events, partly, rows, same_run, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import l2rfast
from l2rfast.io import Volume, write_image
from l2rfast.methods.training.aligned import LABELS
from l2rfast.methods.training.augmentation import Shared, deformed, random_affine, random_intensities
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.unsupervised import VoxelMorph
from l2rfast.methods.unsupervised.training import TrainingOptions, UnsupervisedTask


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six 2-D subjects whose sides are multiples of no power of two."""
    folder = tmp_path_factory.mktemp("scans")
    datasets.write(folder, 6, (30, 26))
    return folder


# --- The run folder


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


# --- Resuming


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
    log, deadline = out / "training.csv", time.monotonic() + 120
    while after and not (log.exists() and len(log.read_text().splitlines()) > after):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # What the moment between two system calls may leave.
    if after:
        log.write_text(log.read_text() + "99,0.5")
        (out / ".checkpoint.safetensors.4711").write_bytes(b"half")
    assert train(scans, out, *AUGMENTED, "--resume") == (0, "")
    assert same_run(out, whole)
    assert not (out / ".checkpoint.safetensors.4711").exists()


def test_a_run_can_be_made_longer(scans: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(scans, out, *AUGMENTED, "--steps=20")
    assert train(scans, out, *AUGMENTED, "--resume") == (0, "")
    assert same_run(out, whole)


def test_what_a_run_is_not_resumed_with(scans: Path, whole: Path, tmp_path: Path) -> None:
    content = {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    code, error = train(scans, whole, *AUGMENTED)
    assert code == 2
    assert error.startswith(f"l2rfast: error: out: a run is in {whole} already; go on with it by --resume")
    code, error = train(scans, whole, *AUGMENTED, "--resume", "--seed=1")
    assert (code, error) == (2, "l2rfast: error: seed: expected 0, as in the run to resume, got 1\n")
    assert content == {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    for name, damage in (("checkpoint.safetensors", b"no"), ("options.json", b"{")):
        out = tmp_path / name
        train(scans, out, *AUGMENTED, "--steps=2")
        (out / name).write_bytes(damage)
        code, error = train(scans, out, *AUGMENTED, "--steps=2", "--resume")
        assert code == 2
        assert error.startswith("l2rfast: error: out: ")
        assert str(out / name) in error


def test_an_interrupt_says_how_to_go_on(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = command(scans, out, "--steps=1000000")
    process = subprocess.Popen(
        [sys.executable, "-c", "from l2rfast import cli; cli.main()", *arguments], stderr=subprocess.PIPE, text=True
    )
    while not (out / "training.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
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
    assert error.startswith("l2rfast: error: cases: expected '12 pairs, 2 for validation, ")


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
    assert (code, error) == (2, "l2rfast: error: weights: expected those that the run to resume began with, or alike\n")


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
    assert (code, error) == (2, "l2rfast: error: scale: expected 0.0, as in the run to resume, got 0.1\n")
    assert train(scans, out, *AUGMENTED, "--resume") == (0, "")
    assert same_run(out, whole)


# --- Several processes


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    """And validate as one, where every pair has other measures."""
    scans = partly(tmp_path / "scans", labelled=(2, 3), landmarks=(2, 4))
    options = ("--steps=12", "--every=6", "--affine=0.1", "--intensity=0.1", "--velocity", "--hold-out=3")
    train(scans, tmp_path / "one", *options, "--batch=4")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "l2rfast.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *command(scans, tmp_path / "two", *options, "--batch=2")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = (rows(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 12
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4), a["step"]
    for a, b in zip(*(rows(tmp_path / name, "validation") for name in ("one", "two")), strict=True):
        assert a == pytest.approx(b, abs=5e-3)
    for said in ("no labels of case0, case1, case4, but of others", "the score is DSC, of 2 of 6 validation pairs"):
        assert done.stderr.count(said) == 1


def test_an_error_of_the_first_process_ends_all(scans: Path, whole: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "l2rfast.cli"]
    done = subprocess.run(
        [*launch, *command(scans, whole, *AUGMENTED)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode != 0
    assert "a run is in" in done.stderr


# --- What is wrong


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        (["--steps=0"], "steps: expected an integer >= 1"),
        (["--batch=0"], "batch: expected"),
        (["--rate=-1"], "rate: expected a number from 0"),
        (["--rate=nan"], "rate: expected a number from 0"),
        (["--affine=1"], "affine: expected a number from 0 to 1"),
        (["--mirror=2"], "mirror: expected axes from 0 to 1, got (2,)"),
        (["--precision=float16"], "precision: expected"),
        (["--similarity=ssim"], "similarity: expected one of lncc, mse, mind"),
        (["--window=4"], "window: expected a positive odd number"),
        (["--smoothness=-1"], "smoothness: expected"),
        (["--bidirectional"], "bidirectional: expected a network with velocity"),
        (["--half"], "half, probabilistic: expected a network with velocity"),
        (["--encoder=4,x"], "encoder: expected integers"),
        (["--decoder=4"], "decoder: expected at least"),
        (["--weights=absent.safetensors"], "path: cannot use absent.safetensors"),
        (["--data=absent"], "data: expected a folder"),
        (["--device=nowhere"], "device: cannot use"),
        (["--rate=1e30", "--steps=5"], "rate: the losses of step"),
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
    assert error.startswith("l2rfast: error: out: expected a folder that can be written")


def test_scans_that_do_not_fit_are_named(scans: Path, tmp_path: Path) -> None:
    datasets.write(tmp_path / "scans", 2, (20, 40))
    folder = tmp_path / "scans"
    for i in range(2):
        (folder / "images" / f"case{i}.nii.gz").rename(folder / "images" / f"other{i}.nii.gz")
        (folder / "labels" / f"case{i}.nii.gz").unlink()
    for file in (scans / "images").iterdir():
        (folder / "images" / file.name).write_bytes(file.read_bytes())
    code, error = train(folder, tmp_path / "run", "--hold-out=0", "--batch=4", "--steps=20")
    assert (code, error) == (2, "l2rfast: error: batch: expected 1, as the images of the pairs differ in size\n")
    code, error = train(folder, tmp_path / "other", "--hold-out=0", "--segmentation=1")
    assert code == 2
    assert error.startswith("l2rfast: error: segmentation: expected labels of every scan")


def test_scans_of_fewer_axes_among_others_are_named(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans / "images", tmp_path / "scans")
    other = tmp_path / "scans" / "other.nii.gz"
    write_image(other, Volume(torch.rand(20, 20, 20), np.eye(4)))
    expected = (
        f"l2rfast: error: data: expected scans of as many axes, got {tmp_path / 'scans' / 'case0.nii.gz'} and {other}\n"
    )
    for kept in ("--hold-out=2", "--hold-out=0"):  # for validation, and to train on
        assert train(tmp_path / "scans", tmp_path / kept, kept, "--steps=100") == (2, expected)


# --- Losses and samples


def task(scans: Path, trainer: dict[str, Any] | None = None, **options: Any) -> UnsupervisedTask:
    chosen = {"encoder": (4, 4), "decoder": (4, 4, 4, 4)} | options
    return UnsupervisedTask(find_pairs(scans), TrainingOptions(**chosen), TrainerOptions(**(trainer or {})))


def batch_of(learner: UnsupervisedTask, count: int = 2) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    samples = [learner.sample(random) for _ in range(count)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def moved(learner: UnsupervisedTask) -> UnsupervisedTask:
    torch.nn.init.normal_(learner.network.field.weight, std=0.1)
    return learner


@pytest.mark.parametrize("similarity", ["lncc", "mse", "mind"])
def test_the_distances(scans: Path, similarity: str) -> None:
    learner = moved(task(scans, similarity=similarity, velocity=True, bidirectional=True, window=5))
    batch = batch_of(learner)
    with torch.no_grad():
        found = learner.network(batch["moving"], batch["fixed"])
        losses = learner(batch)

    def distance(fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
        if similarity == "mind":
            features = l2rfast.mind_ssc(fixed), l2rfast.warp(l2rfast.mind_ssc(moving), displacement)
            return (features[0] - features[1]).square().mean()
        warped = l2rfast.warp(moving, displacement)
        return (fixed - warped).square().mean() if similarity == "mse" else -l2rfast.local_ncc(fixed, warped, window=5)

    both = distance(batch["fixed"], batch["moving"], found.displacement)
    both = (both + distance(batch["moving"], batch["fixed"], found.inverse)) / 2
    torch.testing.assert_close(losses["similarity"], both)
    y, x = (found.field.diff(dim=axis).square().mean() for axis in (2, 3))
    weight = {"lncc": 1.0, "mse": 0.01, "mind": 0.1}[similarity]
    torch.testing.assert_close(losses["smoothness"], weight * (x + y) / 2)


def test_the_kl_divergence(scans: Path) -> None:
    """Dalca et al.'s, written out; the variance alone is least where the prior has it."""
    learner = moved(task(scans, velocity=True, probabilistic=True, precision_of_prior=3.0, smoothness=1.0)).eval()
    batch = batch_of(learner)
    found = learner.network(batch["moving"], batch["fixed"])
    h, w = found.field.shape[2:]
    neighbours = ((h - 1) * w + h * (w - 1)) * 2 / (h * w)
    assert found.log_variance is not None
    variances = (3 * neighbours * found.log_variance.exp() - found.log_variance).mean()
    y, x = (found.field.diff(dim=axis).square().mean() for axis in (2, 3))
    torch.testing.assert_close(learner(batch)["smoothness"], variances + 3 * (x + y) / 4)


def test_the_segmentation_loss(scans: Path) -> None:
    learner = moved(task(scans, segmentation=2.0))
    batch = batch_of(learner)
    assert batch["moving_labels"].shape[1] == LABELS
    assert batch["moving_labels"].sum(1).amax() <= 1
    losses = learner(batch)
    with torch.no_grad():
        warped = l2rfast.warp(batch["moving_labels"], learner.network(batch["moving"], batch["fixed"]).displacement)
    axes = (2, 3)
    overlap = 2 * (warped * batch["fixed_labels"]).sum(axes) / (warped + batch["fixed_labels"]).sum(axes)
    torch.testing.assert_close(losses["segmentation"], 2 * (1 - overlap.mean()))
    losses["segmentation"].backward()
    assert learner.network.field.weight.grad is not None
    assert learner.network.field.weight.grad.any()


def test_samples_depend_on_their_place_alone(scans: Path) -> None:
    augmentation = {"affine": 0.2, "scale": 0.2, "elastic": 1.0, "mirror": (1,), "intensity": 0.2}
    learner = task(scans, augmentation, segmentation=1.0)
    first, again, other = (learner.sample(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fixed"], other["fixed"])
    assert first["fixed"].shape == (1, 32, 28)


@pytest.mark.parametrize("size", [(40, 30), (20, 24, 30)])
def test_a_random_affine_moves_corners_inwards(size: tuple[int, ...]) -> None:
    ndim = len(size)
    for seed in range(20):
        matrix = random_affine(size, 0.3, torch.Generator().manual_seed(seed)).double()
        for axis in range(-1, ndim):
            corner = torch.zeros(ndim + 1, dtype=torch.float64)
            corner[ndim] = 1
            if axis >= 0:
                corner[axis] = size[axis] - 1
            inwards = (matrix @ corner - corner[:ndim]) / (torch.tensor(size) - 1) * 2
            inwards[axis] *= 1 if axis < 0 else -1
            assert (inwards > -1e-6).all()
            assert (inwards < 0.3 + 1e-6).all()
    identity = random_affine(size, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(identity, torch.eye(ndim, ndim + 1))


@pytest.mark.parametrize("size", [(40, 30), (20, 24, 31)])
def test_a_deformation_mirrors_and_scales_about_the_centre(size: tuple[int, ...]) -> None:
    axes = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) - (s - 1) / 2 for s in size), indexing="ij")
    images = torch.stack(axes)[None]  # every voxel's place, of the centre
    moved = deformed(images, TrainerOptions(), torch.Generator(), Shared(2.0, (1,)))
    wanted = images / 2
    wanted[:, 1] *= -1
    torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-5)
    assert torch.equal(deformed(images, TrainerOptions(), torch.Generator(), Shared()), images)


def test_an_elastic_deformation_is_as_large_as_asked_and_does_not_fold() -> None:
    size = (40, 44, 36)
    places = torch.stack(torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in size), indexing="ij"))[None]
    moved = deformed(places, TrainerOptions(elastic=1.5), torch.Generator().manual_seed(0), Shared())
    inner = (..., *[slice(8, -8)] * 3)  # where no border is repeated
    disp = (moved - places)[inner]
    assert 0.8 < disp.std() < 2
    assert l2rfast.metrics.folding_fraction(disp) == 0


def test_what_is_drawn_for_a_pair() -> None:
    random = torch.Generator().manual_seed(0)
    options = TrainerOptions(scale=0.3, mirror=(0, 2))
    drawn = [Shared.drawn(options, random) for _ in range(400)]
    assert {shared.mirrored for shared in drawn} == {(), (0,), (2,), (0, 2)}
    logs = torch.tensor([shared.scale for shared in drawn]).log()
    assert 0.25 < logs.std() < 0.35
    assert logs.mean().abs() < 0.05
    assert Shared.drawn(TrainerOptions(), random) == Shared()


def test_random_intensities_keep_the_order_but_for_noise() -> None:
    image = torch.linspace(0, 1, 100)
    changed = random_intensities(image, 0.1, torch.Generator().manual_seed(0))
    assert not torch.equal(changed, image)
    assert torch.corrcoef(torch.stack([image, changed]))[0, 1] > 0.98
    torch.testing.assert_close(random_intensities(image, 0.0, torch.Generator().manual_seed(0)), image)


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
