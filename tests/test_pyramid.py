"""The network that compares features at four resolutions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import invoke, rows

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.unsupervised import Pyramid, VoxelMorph
from l2rfast.methods.unsupervised.pyramid import Plan
from l2rfast.methods.unsupervised.register import read_weights, with_network
from l2rfast.methods.unsupervised.synthetic import SyntheticOptions, SyntheticTask
from l2rfast.methods.unsupervised.training import TrainingOptions
from l2rfast.metrics import dice, folding_fraction


def test_it_registers_two_contrasts_before_it_is_trained() -> None:
    size = (48, 64, 48)
    moving, fixed = anatomies(2, size, contrasts=2, structures=5, deformation=0.03, seed=1)
    torch.manual_seed(0)
    with torch.inference_mode():
        found = Pyramid()(moving.image, fixed.image)
    assert found.inverse is not None
    assert found.log_variance is None
    assert found.displacement.shape == found.inverse.shape == (1, 3, *size)
    assert found.field.shape == (1, 3, *(s // 2 for s in size))

    def overlap(labels: torch.Tensor) -> float:
        scores = dice(fixed.labels, labels).values()
        return sum(scores) / len(scores)

    warped = l2rfast.warp(moving.labels, found.displacement, mode="nearest")
    assert overlap(warped) > overlap(moving.labels) + 0.05
    assert folding_fraction(found.displacement) == 0
    there_and_back = l2rfast.compose(found.displacement, found.inverse)
    assert there_and_back.abs().mean() < 0.1 * found.displacement.abs().mean()


def test_exchanged_images_have_the_inverse_and_an_image_stays_where_it_is() -> None:
    moving, fixed = (subject.image for subject in anatomies(2, (64, 48)))
    network = Pyramid(Plan(2))
    assert not network(fixed, fixed).displacement.any()
    there, back = network(moving, fixed), network(fixed, moving)
    assert torch.equal(there.field, -back.field)
    assert torch.equal(there.displacement, back.inverse)


def test_every_weight_is_learned_from_painted_images() -> None:
    task = SyntheticTask(TrainingOptions(network="pyramid"), SyntheticOptions(True, size=(64, 64)), TrainerOptions())
    before = {name: value.clone() for name, value in task.state_dict().items()}
    batch = {name: value[None] for name, value in task.sample(torch.Generator().manual_seed(1)).items()}
    optimiser, found = torch.optim.Adam(task.parameters(), 5e-3), []
    for _ in range(20):
        losses = task(batch)
        found.append(float(losses["segmentation"].detach()))
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    assert found[-1] < found[0] - 0.01
    assert not [name for name, value in task.state_dict().items() if torch.equal(value, before[name])]


def test_a_run_leaves_weights_that_register(tmp_path: Path) -> None:
    options = ("--synthetic", "--network=pyramid", "--size=32,32", "--maps=2", "--steps=2", "--quiet")
    assert invoke("train", "unsupervised", *options, f"--out={tmp_path / 'run'}") == (0, "")
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]
    weights = tmp_path / "run" / "weights.safetensors"
    assert isinstance(read_weights(weights), Pyramid)
    moving, fixed = anatomies(2, (50, 40))
    result = l2rfast.register(fixed.image, moving.image, method="unsupervised", weights=weights)
    expected = l2rfast.register(fixed.image, moving.image, method="unsupervised", weights=str(weights), finetune=2)
    assert result.displacement.shape == expected.displacement.shape == (1, 2, 50, 40)
    with pytest.raises(l2rfast.InputError, match="is of"):
        VoxelMorph.load(weights)
    assert with_network(Pyramid.load(weights)).options["method"] == "unsupervised"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"network": "transmorph"}, "network: expected one of voxelmorph, pyramid, got 'transmorph'"),
        ({"network": "pyramid", "velocity": True}, "velocity: of the network voxelmorph, got it beside pyramid"),
        ({"network": "pyramid", "encoder": (4, 4)}, "encoder: of the network voxelmorph"),
    ],
)
def test_options_of_another_network_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(l2rfast.InputError, match=says):
        TrainingOptions(**options)  # type: ignore[arg-type]


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    Pyramid(Plan(2)).save(tmp_path / "pyramid.safetensors")
    with pytest.raises(l2rfast.InputError, match="weights: expected those of the network voxelmorph"):
        TrainingOptions(weights=str(tmp_path / "pyramid.safetensors")).made(2)


@pytest.mark.parametrize("shape", [(1, 1, 32, 40), (1, 2, 32, 32), (1, 1, 32, 32, 32), (0, 1, 32, 32)])
def test_images_that_do_not_fit_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(l2rfast.InputError, match="moving, fixed: expected"):
        Pyramid(Plan(2))(torch.rand(shape), torch.rand(shape))


@pytest.mark.parametrize(
    "plan", [{"ndim": 4}, {"width": 0}, {"radii": (2, 2, 2)}, {"passes": (1, 1, 1, -1)}, {"learned": (1, 1, 1, 0)}]
)
def test_plans_that_are_none_are_named(plan: dict[str, object]) -> None:
    with pytest.raises(l2rfast.InputError, match=f"^{next(iter(plan))}: expected"):
        Plan(**plan)  # type: ignore[arg-type]
