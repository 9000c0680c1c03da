"""Training on painted images, without scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL, invoke, rows, same_run

from l2rfast.io import Volume, write_image
from l2rfast.methods.refine import pool, resample_field
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.unsupervised import Architecture, VoxelMorph
from l2rfast.methods.unsupervised.synthetic import SyntheticOptions, SyntheticTask
from l2rfast.methods.unsupervised.training import TrainingOptions

FLAT = ("--size=32,32", "--maps=4", "--velocity", *SMALL)


def train(out: Path, *options: str) -> tuple[int, str]:
    return invoke("train", "unsupervised", "--synthetic", f"--out={out}", "--quiet", *FLAT, *options)


def label_maps(folder: Path, *sizes: tuple[int, ...], labels: int = 5) -> Path:
    folder.mkdir()
    for i, size in enumerate(sizes):
        values = torch.arange(int(np.prod(size))).view(size) * labels // int(np.prod(size))
        write_image(folder / f"map{i}.nii.gz", Volume(values.to(torch.int32), np.eye(4)))
    return folder


def test_a_run_is_the_same_again_and_resumed(tmp_path: Path) -> None:
    for name in ("whole", "again", "parts"):
        assert train(tmp_path / name, "--steps=4", "--every=2", *(["--steps=2"] if name == "parts" else [])) == (0, "")
    assert train(tmp_path / "parts", "--steps=4", "--every=2", "--resume") == (0, "")
    assert same_run(tmp_path / "whole", tmp_path / "again")
    assert same_run(tmp_path / "whole", tmp_path / "parts")
    assert set(rows(tmp_path / "whole", "validation")[0]) == {"step", "DSC", "num_foldings"}
    for row in rows(tmp_path / "whole"):
        assert row["loss"] == pytest.approx(row["segmentation"] + row["smoothness"], abs=1e-6)
    options = json.loads((tmp_path / "whole" / "options.json").read_text())
    assert (options["synthetic"], options["maps"], options["cases"]) == (True, 4, "random label maps")
    code, error = train(tmp_path / "parts", "--steps=6", "--maps=5", "--resume")
    assert code == 2
    assert "maps: expected 4, as in the run to resume, got 5" in error


def test_steps_on_a_painted_pair_align_its_labels() -> None:
    synthetic = SyntheticOptions(synthetic=True, size=(32, 32), maps=1)
    options = TrainingOptions(velocity=True, encoder=(8, 16), decoder=(16, 16, 16, 8), smoothness=0.01)
    task = SyntheticTask(options, synthetic, TrainerOptions())
    optimiser = torch.optim.Adam(task.parameters(), 3e-3)
    batch = {name: value[None] for name, value in task.sample(torch.Generator().manual_seed(0)).items()}
    found = []
    for _ in range(60):
        losses = task(batch)
        found.append(float(losses["segmentation"].detach()))
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    assert found[-1] < 0.8 * found[0]


def test_label_maps_of_a_folder_are_painted(tmp_path: Path) -> None:
    folder = label_maps(tmp_path / "maps", (40, 30), (25, 50))
    (folder / "notes.txt").write_text("of no account")
    assert train(tmp_path / "run", f"--labels={folder}", "--steps=2")[0] == 0
    assert json.loads((tmp_path / "run" / "options.json").read_text())["cases"].startswith("2 label maps, ")
    moved = folder.rename(tmp_path / "moved")
    assert train(tmp_path / "run", f"--labels={moved}", "--steps=3", "--resume")[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data=."], "--data, --atlas, --hold-out: of scans, expected none of them with --synthetic"),
        (["--hold-out=2"], "--data, --atlas, --hold-out: of scans"),
        (["--similarity=mse"], "--similarity: not used with --synthetic, got 'mse'"),
        (["--elastic=2"], "--elastic: not used with --synthetic, got 2.0"),
        (["--size=32,33"], "--size: expected multiples of 4, got (32, 33)"),
        (["--size=32"], "--size: expected two or three integers, at least 16 each, got (32,)"),
        (["--maps=0"], "--maps: expected"),
        (["--labels=nowhere"], "--labels: expected a folder of label maps, got 'nowhere'"),
        (["--labels=."], "--labels: expected a folder of label maps, found none in ."),
    ],
)
def test_what_does_not_go_with_painted_images_is_named(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = train(tmp_path / "run", *options)
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert says in " ".join(error.split())


def test_options_of_painted_images_without_them_are_named(tmp_path: Path) -> None:
    for options, says in (((), "--data: expected scans"), (("--maps=3",), "--maps: expected --synthetic as well")):
        code, error = invoke("train", "unsupervised", f"--out={tmp_path / 'run'}", *options)
        assert code == 2
        assert says in error


@pytest.mark.parametrize(("size", "labels", "says"), [((20, 20, 20), 5, "of 2 axes, got 3"), ((40, 40), 300, "255")])
def test_label_maps_that_cannot_be_painted_are_named(
    size: tuple[int, ...], labels: int, says: str, tmp_path: Path
) -> None:
    folder = label_maps(tmp_path / "maps", size, labels=labels)
    code, error = train(tmp_path / "run", f"--labels={folder}", "--steps=1")
    assert code == 2
    assert says in error
    assert "map0.nii.gz" in error


@pytest.mark.parametrize("velocity", [False, True])
def test_a_coarse_network_sees_averages_and_gives_the_field_at_the_images_voxels(velocity: bool) -> None:
    plain = VoxelMorph(Architecture(2, (4, 4), (4, 4, 4, 4), velocity=velocity))
    coarse = VoxelMorph(Architecture(2, (4, 4), (4, 4, 4, 4), velocity=velocity, coarse=True))
    torch.nn.init.normal_(plain.field.weight)
    coarse.load_state_dict(plain.state_dict())
    moving, fixed = torch.rand(2, 1, 1, 16, 24)
    found, expected = coarse(moving, fixed), plain(pool(moving, 2), pool(fixed, 2))
    assert torch.equal(found.field, expected.field)
    torch.testing.assert_close(found.displacement, resample_field(expected.displacement, (16, 24), 2, 1))
    with pytest.raises(ValueError, match="multiples of 8"):
        coarse(moving[..., :20], fixed[..., :20])
