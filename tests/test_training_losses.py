"""What VoxelMorph is trained on: the losses, written out, and the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import l2rfast
from l2rfast.methods.training.aligned import LABELS
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.unsupervised.training import TrainingOptions, UnsupervisedTask


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
