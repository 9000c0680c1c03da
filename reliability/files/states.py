"""Folders and tables that can be read, small: data sets, cohorts, reports, weights and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from l2rfast.cli.report import Report
from l2rfast.methods.discrete.pddnet import PUBLISHED, PDDNet
from l2rfast.methods.discrete.tutorial import Flat, TutorialNet2d
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.training.run import OPTIONS, Description
from l2rfast.methods.training.trainer import Task, _Trainer, world
from l2rfast.methods.unsupervised.network import Architecture, VoxelMorph

from .seeds import nifti

ARCHITECTURE = Architecture(2, (4, 4), (4, 4, 4, 4))
STEPS = TrainerOptions(steps=1)


def report(path: Path) -> None:
    """Of a registration, as ``report.json``."""
    scan = {"path": "fixed.nii.gz", "shape": [7, 6, 5], "spacing": [1.5, 1.0, 2.0]}
    content = Report(
        {"fixed": scan, "moving": scan}, {"transform": "deformable", "metric": "mind"}, 0, "cpp (avx2)", {"read": 0.1},
        100.0, {"correlation": (0.1, 0.9), "MSE": (0.4, 0.1)}, 99.0, 0.0, 0.0, 0.1, 0.01, {1: (0.5, 0.8)},
        {1: (3.0, 1.0)}, {"1": (4.0, 2.0)}, "measured only", ["a warning"],
    )  # fmt: skip
    content.write_json(path)


def cohort(path: Path) -> None:
    path.write_text(json.dumps({"pairs": {"a": ["register", "f.nii", "m.nii"], "b": ["register", "f.nii", "n.nii"]}}))


def pairs(path: Path) -> None:
    """A cohort as a table."""
    end = "\t" if path.suffix == ".tsv" else ","
    rows = (
        ("id", "fixed", "moving", "fixed_labels", "window", "age"),
        *((k, "f.nii", f"{k}.nii", "", "9", "40") for k in "abc"),
    )
    path.write_text("".join(end.join(row) + "\n" for row in rows))


def training_table(path: Path) -> None:
    for name in "abc":
        nifti()(path.parent / f"{name}.nii")
    path.write_text("fixed,moving,split\n" + "a.nii,b.nii,training\nb.nii,c.nii,val\n./a.nii,c.nii,test\n")


def dataset(path: Path) -> None:
    """Learn2Reg's ``dataset.json``, and what it names."""
    folder = path.parent
    for kind in ("imagesTr", "labelsTr", "landmarksTr"):
        (folder / kind).mkdir(exist_ok=True)
    for k in range(4):
        nifti()(folder / f"imagesTr/A_000{k}.nii")
    (folder / "landmarksTr/A_0000.csv").write_text("1,2,3\n")
    listed = [{"image": f"./imagesTr/A_000{k}.nii"} for k in range(4)]
    couple = [{"fixed": "./imagesTr/A_0000.nii", "moving": "./imagesTr/A_0001.nii"}]
    content = {
        "name": "A", "modality": {"0": "CT"}, "numTraining": 3, "tensorImageShape": {"0": [7, 6, 5]},
        "training": listed,
        "training_paired_images": couple,
        "registration_val": [{"fixed": listed[2]["image"], "moving": listed[3]["image"]}],
    }  # fmt: skip
    path.write_text(json.dumps(content))


def bids(folder: Path) -> None:
    for subject in ("01", "02"):
        place = folder / f"sub-{subject}" / "anat"
        place.mkdir(parents=True)
        nifti()(place / f"sub-{subject}_T1w.nii")
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')


def network(path: Path) -> None:
    VoxelMorph(ARCHITECTURE).save(path)


def flat_network(path: Path) -> None:
    TutorialNet2d(Flat()).save(path)


def keras(path: Path) -> None:
    """As the published weights of VoxelMorph, of two axes."""
    layers = [*VoxelMorph(ARCHITECTURE).encoder, *VoxelMorph(ARCHITECTURE).decoder]
    with h5py.File(path, "w") as file:
        for k, layer in enumerate([*layers, VoxelMorph(ARCHITECTURE).field]):
            name = f"conv2d_{k}" if k < len(layers) else "flow"
            kernel = layer.weight.detach().movedim((0, 1), (-1, -2)).numpy()
            file[f"model_weights/{name}/{name}/kernel:0"] = kernel
            file[f"model_weights/{name}/{name}/bias:0"] = layer.bias.detach().numpy()


def published(path: Path) -> None:
    """PDD-Net's features, as the public weights have them, and its regulariser's beside."""
    torch.save(PDDNet(PUBLISHED).features.state_dict(), path)
    torch.save({"alpha": torch.ones(4)}, path.with_name("alpha.pth"))


class Nothing(Task):
    """What has a weight, and nothing to do with it."""

    scores: ClassVar[Mapping[str, bool]] = {"DSC": True}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def sample(self, random: torch.Generator) -> dict[str, torch.Tensor]:
        return {}

    def validate(self, index: int) -> dict[str, float]:
        return {}

    def picture(self) -> torch.Tensor:
        return torch.zeros(4, 4)

    def save(self, folder: Path) -> None:
        pass


def described() -> Description:
    return Description({"method": "x", **asdict(STEPS)})


def run(folder: Path) -> None:
    """Of training: options, checkpoint and logs."""
    folder.mkdir()
    (folder / OPTIONS).write_text(json.dumps(dict(described().options), indent=1))
    tensors = {
        "task.weight": torch.ones(3), "optimizer.0.step": torch.tensor(1.0), "optimizer.0.exp_avg": torch.zeros(3),
        "optimizer.0.exp_avg_sq": torch.zeros(3),
    }  # fmt: skip
    numbers = {"step": 1, "best": 0.5, "worse": 0, "score": "DSC"}
    save_file(tensors, folder / "checkpoint.safetensors", {"run": json.dumps(numbers)})
    (folder / "training.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    (folder / "validation.csv").write_text("step,DSC\n1,0.5\n")


def template_maps(path: Path) -> None:
    np.savez(path, displacement=np.zeros((1, 3, 7, 6, 5), np.float32), affine=np.eye(4))


def template_round(path: Path) -> None:
    path.write_text(json.dumps({"kind": "affine", "members": 2, "left_out": ["a"], "moved": 0.1, "sharpness": 3.0}))


def resumed(folder: Path) -> None:
    """A run goes on from its checkpoint, as far as its first step."""
    with world(torch.device("cpu"), folder) as processes, ExitStack() as stack:
        trainer = _Trainer(Nothing(), folder, STEPS, described(), processes, True, lambda step, text: None, stack)
        if trainer.step < 0 or not trainer.task.weight.isfinite().all():  # type: ignore[union-attr]
            raise AssertionError("a step or a weight that cannot be")
