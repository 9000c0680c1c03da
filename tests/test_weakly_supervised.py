"""Training of label-reg and registration by it: folders of roles, labels that overlap, images on other grids."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import l2rfast
from l2rfast import cli
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, as_volume, read_displacement, read_masks, write_image
from l2rfast.methods.folds import unfolded
from l2rfast.methods.method import apply
from l2rfast.methods.registration import choose
from l2rfast.methods.stages import Stages
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.weakly_supervised import Architecture, LabelReg, Plan
from l2rfast.methods.weakly_supervised.options import TrainingOptions, of_preset
from l2rfast.methods.weakly_supervised.training import WeaklySupervisedTask, centroid, labelled

SMALL = (
    *("--network=local", "--width=2", "--levels=1,2", "--resolution=1", "--rate=1e-3", "--batch=1", "--no-cosine"),
    *("--affine=0", "--scale=0", "--elastic=0", "--intensity=0", "--shift=0", "--fixed-shift=0"),
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five 2-D pairs in two contrasts on grids of different sizes; labels as stacks of masks, some as a map."""
    root = tmp_path_factory.mktemp("scans")
    subjects = anatomies(10, (48, 40), structures=3, contrasts=2, deformation=0.02)
    for i in range(5):
        for role, subject, size in (("mr", subjects[2 * i], (48, 40)), ("us", subjects[2 * i + 1], (36, 34))):
            image, labels = (x[0, 0, : size[0], : size[1]].contiguous() for x in (subject.image, subject.labels))
            for kind in ("images", "labels"):
                (root / f"{role}_{kind}").mkdir(exist_ok=True)
            write_image(root / f"{role}_images" / f"case{i}.nii.gz", Volume(image, np.eye(4)))
            file = root / f"{role}_labels" / f"case{i}.nii.gz"
            if i < 4:
                stack = np.stack([(labels == label).numpy() for label in (1, 2, 3)], -1).astype(np.uint8)
                nib.Nifti1Image(stack, np.eye(4)).to_filename(file)
            else:
                write_image(file, Volume(labels, np.eye(4)))
    return root


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [*arguments, "--quiet"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def train(scans: Path, out: Path, *options: str) -> tuple[int, str]:
    return command("train", "weakly-supervised", f"--data={scans}", f"--out={out}", "--hold-out=2", *SMALL, *options)


def rows(file: Path) -> list[dict[str, float]]:
    with file.open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def test_pairs_are_scans_of_one_name(scans: Path, tmp_path: Path) -> None:
    pairs = find_pairs(scans, hold_out=2)
    assert [(p.fixed.name, p.moving.name) for p in pairs.training] == [(f"case{i}",) * 2 for i in range(3)]
    assert [p.fixed.name for p in pairs.validation] == ["case3", "case4"]
    assert pairs.training[0].fixed.image == scans / "us_images" / "case0.nii.gz"
    assert pairs.training[0].moving.labels == scans / "mr_labels" / "case0.nii.gz"
    for role in ("fixed", "moving"):
        (tmp_path / f"{role}_images").mkdir()
    (tmp_path / "moving_images" / "alone.nii.gz").write_bytes(b"")
    with pytest.raises(l2rfast.InputError, match="a fixed and a moving image of every name, but not so is alone"):
        find_pairs(tmp_path)


def test_masks_of_a_stack_and_of_a_map(scans: Path) -> None:
    for i in (3, 4):
        image = as_volume("image", scans / "us_images" / f"case{i}.nii.gz", dims=(2,))
        masks = read_masks(scans / "us_labels" / f"case{i}.nii.gz", image)
        assert sorted(masks) == [0, 1, 2]
        assert all(mask.dtype == torch.bool and mask.shape == (36, 34) for mask in masks.values())
        assert not (masks[0] & masks[1]).any()
    with pytest.raises(l2rfast.InputError, match="expected"):
        read_masks(scans / "mr_labels" / "case3.nii.gz", image)


def test_landmarks_are_labels_too(scans: Path, tmp_path: Path) -> None:
    for role in ("us", "mr"):
        for kind in ("images", "labels"):
            (tmp_path / f"{role}_{kind}").symlink_to(scans / f"{role}_{kind}")
        (tmp_path / f"{role}_landmarks").mkdir()
    (tmp_path / "us_landmarks" / "case0.csv").write_text("10.5,20\n")
    (tmp_path / "mr_landmarks" / "case0.csv").write_text("12,22.25\n")
    pair = find_pairs(tmp_path).training[0]
    fixed, moving = labelled(pair.fixed), labelled(pair.moving)
    assert sorted(fixed.labels) == [0, 1, 2, 3]
    assert centroid(fixed.labels[3]).tolist() == pytest.approx([10.5, 20], abs=1e-3)
    assert centroid(moving.labels[3]).tolist() == pytest.approx([12, 22.25], abs=1e-3)


def test_what_a_run_leaves(scans: Path, tmp_path: Path) -> None:
    assert train(scans, tmp_path / "run", "--steps=4", "--every=2", "--affine=0.1", "--shift=1") == (0, "")
    assert json.loads((tmp_path / "run" / "options.json").read_text())["method"] == "weakly-supervised"
    measured = rows(tmp_path / "run" / "validation.csv")
    assert [row["step"] for row in measured] == [0, 2, 4]
    assert set(measured[0]) == {"step", "DSC", "centroids", "num_foldings"}
    assert LabelReg.load(tmp_path / "run" / "weights.safetensors").architecture.plan == Plan(2, 2, "instance", (1, 2))
    assert (tmp_path / "run" / "curves.png").exists()


def test_it_learns_and_resumes_to_the_same_bits(scans: Path, tmp_path: Path) -> None:
    options = ("--steps=80", "--every=40", "--batch=2", "--width=4", "--rate=3e-3", "--smoothness=0.1")
    train(scans, tmp_path / "whole", *options)
    losses = [row["similarity"] for row in rows(tmp_path / "whole" / "training.csv")]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.03
    train(scans, tmp_path / "parts", *options, "--steps=40")
    assert train(scans, tmp_path / "parts", *options, "--resume") == (0, "")
    runs = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "parts")]
    assert runs[0] == runs[1]


def test_labels_that_are_moved_out_of_the_image_are_said(scans: Path, tmp_path: Path) -> None:
    """As by the first step of a network that sees all of the image for each number of an affine map."""
    options = ("--network=global", "--levels=0,1,2,3,4", "--steps=3", "--rate=30")
    said = "l2rfast: warning: --rate: all labels of moving were moved out of fixed, from where no gradient leads back"
    assert train(scans, tmp_path / "run", *options) == (0, f"{said}; a lower one may help\n")
    assert [row["similarity"] for row in rows(tmp_path / "run" / "training.csv")][1:] == [1, 1]


def test_moments_learn_where_the_first_label_is(scans: Path, tmp_path: Path) -> None:
    options = ("--network=moments", "--levels=0,1,2,3,4", "--width=4", "--steps=80", "--every=80", "--batch=4")
    options += ("--rate=1e-2", "--affine=0.1")
    assert train(scans, tmp_path / "run", *options) == (0, "")
    losses = [row["maps"] for row in rows(tmp_path / "run" / "training.csv")]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])
    before, after = (row["DSC"] for row in rows(tmp_path / "run" / "validation.csv"))
    assert after > before


def test_options_of_the_loss_of_fields_are_not_those_of_moments(scans: Path, tmp_path: Path) -> None:
    for told, found in (("levels=1,2", "(1, 2)"), ("energy=diffusion", "'diffusion'"), ("sigmas=0", "(0.0,)")):
        options = ("--network=moments", "--levels=0,1,2,3,4", f"--{told}")
        code, error = train(scans, tmp_path / "run", *options)
        assert code == 2
        name = told.partition("=")[0]
        assert f"--{name}: not used with the network moments, got {found}" in " ".join(error.split())
    assert not (tmp_path / "run").exists()


def test_a_sample_is_an_image_and_one_of_its_labels(scans: Path) -> None:
    options = TrainingOptions(network="local", width=2)
    task = WeaklySupervisedTask(find_pairs(scans), options, TrainerOptions(affine=0.2, intensity=0.1))
    first, again = (task.sample(torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert {name: tuple(value.shape) for name, value in first.items()} == {
        **dict.fromkeys(("fixed", "fixed_label"), (1, 36, 34)),
        **dict.fromkeys(("moving", "moving_label"), (1, 48, 40)),
    }
    assert 0 <= first["fixed_label"].min() < first["fixed_label"].max() <= 1


def test_a_sample_of_moments_is_as_coarse_as_their_maps(scans: Path) -> None:
    """An image and the first label; moved as far as it would be at the full resolution."""
    pairs = find_pairs(scans)
    means = []
    for resolution in (1, 2):
        options = TrainingOptions(width=2, resolution=resolution, shift=4)
        task = WeaklySupervisedTask(pairs, options, TrainerOptions())
        sample = task.sample(torch.Generator().manual_seed(1))
        assert sample["fixed"].shape == sample["fixed_label"].shape == (1, 36 // resolution, 34 // resolution)
        label = sample["moving_label"][0]
        assert 0 <= label.min() < label.max() <= 1
        means.append(resolution * (centroid(label) + 0.5))
    assert means[1].tolist() == pytest.approx(means[0].tolist(), abs=0.3)


def test_either_scan_is_shifted(scans: Path) -> None:
    pairs = find_pairs(scans)
    for shift, fixed_shift, moved in ((0.0, 0.0, set()), (4.0, 0.0, {"moving"}), (0.0, 4.0, {"fixed"})):
        options = TrainingOptions(network="local", width=2, shift=shift, fixed_shift=fixed_shift)
        task = WeaklySupervisedTask(pairs, options, TrainerOptions())
        sample = task.sample(torch.Generator().manual_seed(1))
        names = dict(zip(("fixed", "moving"), task.names(torch.Generator().manual_seed(1)), strict=True))
        images = {role: as_volume("data", name, dims=(2,)).data for role, name in names.items()}
        scaled = {role: (image - image.min()) / (image.max() - image.min()) for role, image in images.items()}
        assert {role for role in images if not torch.allclose(sample[role][0], scaled[role], atol=1e-6)} == moved


def test_presets() -> None:
    assert of_preset() == of_preset("cpu")
    options, trainer = of_preset("published")
    assert options.architecture((40, 40, 40)) == Architecture("local", Plan(norm="batch-as-published"), "corner", 1)
    assert (trainer.steps, trainer.batch, trainer.rate, trainer.affine) == (10000, 4, 1e-5, 0.1)
    with pytest.raises(l2rfast.InputError, match="preset: expected one of cpu, published, got 'gpu'"):
        of_preset("gpu")


def test_what_is_said_counts_before_the_preset(scans: Path, tmp_path: Path) -> None:
    assert train(scans, tmp_path / "run", "--preset=published", "--steps=1", "--scale=0.1") == (0, "")
    said = json.loads((tmp_path / "run" / "options.json").read_text())
    assert (said["start"], said["width"], said["scale"], said["steps"]) == ("corner", 2, 0.1, 1)
    code, error = train(scans, tmp_path / "none", "--preset=gpu")
    assert code == 2
    assert error.startswith("l2rfast: error: --preset: expected one of cpu, published, got 'gpu'")


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        (["--network=dense"], "--network: expected one of"),
        (["--norm=batch"], "--norm: expected one of"),
        (["--levels=7"], "--levels: expected some from 0 to 4"),
        (["--start=middle"], "--start: expected one of"),
        (["--resolution=5"], "--resolution: expected at most 4"),
        (["--similarity=overlap"], "--similarity: expected one of"),
        (["--sigmas=1,x"], "--sigmas: expected numbers"),
        (["--energy=none"], "--energy: expected one of"),
        (["--shift=-1"], "--shift: expected"),
        (["--seed=99999999999999999999"], "--seed: expected at most"),
        (["--weights=absent.safetensors"], "--weights: cannot use"),
        (["--data=absent"], "--data: expected a folder"),
    ],
)
def test_wrong_options_are_named(options: list[str], begins: str, scans: Path, tmp_path: Path) -> None:
    code, error = train(scans, tmp_path / "run", *options)
    assert code == 2
    assert error.startswith(f"l2rfast: error: {begins}"), error


def test_scans_without_labels_are_named(scans: Path, tmp_path: Path) -> None:
    for role in ("us", "mr"):
        (tmp_path / f"{role}_images").symlink_to(scans / f"{role}_images")
    code, error = train(tmp_path, tmp_path / "run")
    assert code == 2
    assert error.startswith("l2rfast: error: --data: expected labels or landmarks of")


def without(scans: Path, folder: Path, *names: str) -> Path:
    """The same data, but for some label maps."""
    shutil.copytree(scans, folder)
    for name in names:
        (folder / "us_labels" / f"{name}.nii.gz").unlink()
    return folder


def test_labels_of_some_pairs_for_validation(scans: Path, tmp_path: Path) -> None:
    """The first of two has none, so that it has no Dice either: the score is that of the other."""
    data = without(scans, tmp_path / "scans", "case3")
    code, error = train(data, tmp_path / "run", "--steps=2", "--every=1")
    assert code == 0
    assert error.splitlines() == [
        "l2rfast: warning: --data: no labels of case3, but of others",
        "l2rfast: warning: --data: the score is DSC, of 1 of 2 validation pairs",
    ]
    both = train(scans, tmp_path / "both", "--steps=2", "--every=1")
    assert both == (0, "")
    one, two = (rows(tmp_path / name / "validation.csv")[0] for name in ("run", "both"))
    task = WeaklySupervisedTask(
        find_pairs(scans, hold_out=2),
        TrainingOptions(network="local", width=2, levels=(1, 2), resolution=1),
        TrainerOptions(),
    )
    with torch.no_grad():
        first, second = (task.validate(i)["DSC"] for i in (0, 1))
    assert one["DSC"] == pytest.approx(second)
    assert two["DSC"] == pytest.approx((first + second) / 2)
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_no_labels_for_validation_at_all(scans: Path, tmp_path: Path) -> None:
    """Then no score is ever defined, and the weights are the last."""
    data = without(scans, tmp_path / "scans", "case3", "case4")
    code, error = train(data, tmp_path / "run", "--steps=3", "--every=1", "--patience=1")
    assert code == 0
    assert error.splitlines()[-1] == "l2rfast: warning: --data: the score is centroids, of 0 of 2 validation pairs"
    assert len(rows(tmp_path / "run" / "training.csv")) == 3
    weights, state = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "checkpoint"))
    assert all(torch.equal(value, state[f"task.network.{name}"]) for name, value in weights.items())


# --- Registration


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a 3-D network whose field is some voxels long."""
    torch.manual_seed(0)
    network = LabelReg(Architecture(plan=Plan(3, 2, out_levels=(3,))))
    torch.nn.init.normal_(network.network.get_parameter("out.3.weight"), std=0.3)
    network.save(tmp_path / "network.safetensors")
    return tmp_path / "network.safetensors"


def test_registration_goes_by_the_index(weights: Path, tmp_path: Path) -> None:
    """On grids of different sizes whose affines say nothing useful: the network's field, without its folds, is what
    warps."""
    fixed, moving = torch.rand(20, 24, 18), torch.rand(26, 25, 30)
    affines = np.diag([2.0, 1.0, 1.5, 1.0]), np.diag([0.5, 3.0, 1.0, 1.0])
    affines[1][:3, 3] = [40, -20, 7]
    volumes = [Volume(image, affine) for image, affine in zip((fixed, moving), affines, strict=True)]
    result = l2rfast.register(*volumes, method="weakly-supervised", weights=weights)
    network = LabelReg.load(weights).eval()
    scaled = [(image - image.min()) / (image.max() - image.min()) for image in (moving, fixed)]
    scaled = [
        image if low >= 0 and high <= 1 else s
        for image, s, low, high in zip(
            (moving, fixed), scaled, (moving.min(), fixed.min()), (moving.max(), fixed.max()), strict=True
        )
    ]
    with torch.no_grad():
        field = network(*(image[None, None] for image in scaled))
    assert field.abs().max() > 3
    method = choose("weakly-supervised", "default", weights=weights)
    raw = apply(method, *volumes, torch.device("cpu"), Stages(), without_folds=False)
    for found, indices in ((raw, field), (result, unfolded(field))):
        expected = l2rfast.warp(moving[None, None], indices, padding="zeros")[0, 0]
        torch.testing.assert_close(found.warp(moving), expected, atol=1e-3, rtol=1e-3)
    assert l2rfast.digital_jacobian(field).min() < 0
    for whole in (result.displacement, result.inverse):
        assert l2rfast.digital_jacobian(whole).min() > 0

    for name, volume in zip(("fixed", "moving"), volumes, strict=True):
        write_image(tmp_path / f"{name}.nii.gz", volume)
        write_image(tmp_path / f"{name}_labels.nii.gz", Volume((volume.data > 0.5).byte(), volume.affine))
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    labels = [f"--{name}-labels={tmp_path / name}_labels.nii.gz" for name in ("fixed", "moving")]
    out = tmp_path / "out"
    options = [f"--out={out}", "--method=weakly-supervised", f"--weights={weights}"]
    assert command("register", *files, *labels, *options) == (0, "")
    written, _ = read_displacement(out / "displacement.nii.gz")
    torch.testing.assert_close(written, result.displacement, atol=1e-3, rtol=1e-3)
    assert json.loads((out / "report.json").read_text())["options"]["method"] == "weakly-supervised"


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({}, "weights: expected a file of weights"),
        ({"weights": "absent.safetensors"}, "path: cannot use absent.safetensors"),
        ({"weights": None, "finetune": 3}, "finetune: no option of the method weakly-supervised"),
        ({"weights": None, "preset": "fast"}, "preset: the method weakly-supervised has none"),
    ],
)
def test_wrong_options_of_registration_are_named(options: dict[str, object], begins: str, weights: Path) -> None:
    given = {name: weights if name == "weights" and value is None else value for name, value in options.items()}
    with pytest.raises(l2rfast.InputError, match=begins):
        l2rfast.register(torch.rand(16, 16, 16), torch.rand(16, 16, 16), method="weakly-supervised", **given)


def test_moments_are_of_the_first_label_and_of_weights_alike(scans: Path, tmp_path: Path) -> None:
    """Scans without it are named, as is another network than the weights are of."""
    data = tmp_path / "data"
    shutil.copytree(scans, data)
    for role, size in (("mr", (48, 40)), ("us", (36, 34))):
        label = torch.zeros(size, dtype=torch.uint8)
        label[5:20, 5:20] = 3
        write_image(data / f"{role}_labels" / "case0.nii.gz", Volume(label, np.eye(4)))
    options = ("--network=moments", "--levels=0,1,2,3,4", "--steps=1")
    code, error = train(data, tmp_path / "run", *options)
    assert code == 2
    assert "case0.nii.gz): expected label 1, for moments, found 3" in error
    assert train(scans, tmp_path / "first", *options) == (0, "")
    weights = f"--weights={tmp_path / 'first' / 'weights.safetensors'}"
    code, error = train(scans, tmp_path / "second", weights)
    assert code == 2
    assert "--weights: expected those of the network local, got those of moments" in error
