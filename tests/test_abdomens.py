"""Generated CT of the abdomen, and PDD-Net trained on it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import l2rfast
from l2rfast.data.abdomens import SIZE, SPACING, STRUCTURES, abdomens, write_abdomens
from l2rfast.io import Volume
from l2rfast.methods.discrete.pddnet import Architecture, PDDNet
from l2rfast.methods.discrete.register import with_network
from l2rfast.methods.discrete.training import DiscreteTask, TrainingOptions
from l2rfast.methods.method import apply
from l2rfast.methods.stages import Stages
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.metrics import dice

SMALL = tuple(s // 2 for s in SIZE)
# What CT shows of them, at least and at most, whatever the contrast agent.
UNITS = {1: (50, 220), 2: (60, 300), 4: (-15, 60), 5: (50, 200), 8: (80, 400), 10: (-10, 50), 12: (-900, -600)}


def small(count: int, **options: Any) -> list[Any]:
    return list(abdomens(count, SMALL, spacing=2 * SPACING, **options))


def test_arguments_and_seed_give_the_people() -> None:
    (first, second), again, other = small(2), small(1), small(1, seed=1)
    assert torch.equal(first.image, again[0].image)
    assert torch.equal(first.labels, again[0].labels)
    assert not torch.equal(first.labels, second.labels)
    assert not torch.equal(first.labels, other[0].labels)
    assert torch.equal(small(2, noise=0)[1].labels, second.labels)  # drawn after the anatomy


def test_organs_are_where_they_belong_and_of_plausible_units() -> None:
    for person in small(4, seed=3):
        image, labels = person.image[0, 0], person.labels[0, 0]
        assert image.min() >= -1024
        assert torch.equal(image, image.round())
        assert (image[::47, ::35] < -900).all()  # at the corners there is air
        assert set(labels.unique().tolist()) == {0, *STRUCTURES}
        for label, (least, most) in UNITS.items():
            assert least < image[labels == label].median() < most, STRUCTURES[label]
        x, y, z = np.array([(labels == label).nonzero().double().mean(0).numpy() for label in STRUCTURES]).T
        at = {name: (x[i], y[i], z[i]) for i, name in enumerate(STRUCTURES.values())}
        assert at["liver"][0] > at["spleen"][0]
        assert at["right kidney"][0] > at["spine"][0] > at["left kidney"][0]
        assert at["spine"][1] < at["aorta"][1] < at["stomach"][1]
        assert at["bladder"][2] < at["left kidney"][2] < at["left lung"][2]
        litres = {name: float((labels == i).sum()) * (2 * SPACING) ** 3 / 1e6 for i, name in STRUCTURES.items()}
        assert 0.5 < litres["liver"] < 2.5
        assert 0.05 < litres["right kidney"] < 0.4
        assert 0.02 < litres["spleen"] < 0.6


def test_people_differ_and_without_variation_hardly() -> None:
    def agreement(**options: float) -> float:
        people = small(3, **options)
        return fmean(fmean(dice(a.labels[0, 0], b.labels[0, 0]).values()) for a, b in pairwise(people))

    assert 0.2 < agreement() < 0.6
    assert agreement(variation=0, deformation=0) > 0.98


def test_another_resolution_shows_the_same_people() -> None:
    (coarse,) = small(1, noise=0)
    (fine,) = abdomens(1, SIZE, spacing=SPACING, noise=0)
    found = dice(fine.labels[0, 0, ::2, ::2, ::2], coarse.labels[0, 0])  # half a fine voxel off
    assert fmean(found.values()) > 0.8
    mean = l2rfast.filters.block_average(fine.image, 2)
    assert (mean - coarse.image).abs().mean() < 25


def test_a_data_set_is_written(tmp_path: Path) -> None:
    files = write_abdomens(tmp_path, 2, SMALL, spacing=2 * SPACING)
    assert [file.name for file in files] == ["person000.nii.gz", "person001.nii.gz"]
    stored = nib.load(files[1])
    assert stored.get_data_dtype() == np.int16
    assert nib.aff2axcodes(stored.affine) == ("R", "A", "S")
    assert stored.header.get_zooms() == (2 * SPACING,) * 3
    person = small(2)[1]
    assert np.array_equal(stored.dataobj, person.image[0, 0].numpy())
    labels = np.asarray(nib.load(tmp_path / "labels" / "person001.nii.gz").dataobj)
    assert np.array_equal(labels, person.labels[0, 0].numpy())
    assert len(find_pairs(tmp_path).training) == 2


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"size": (64, 64)}, "size: expected three integers"),
        ({"size": (64, 64, 8)}, "size: expected three integers"),
        ({"count": 0}, "count: expected"),
        ({"spacing": 0}, "spacing: expected"),
        ({"variation": 3}, "variation: expected"),
        ({"deformation": float("nan")}, "deformation: expected"),
        ({"noise": -1}, "noise: expected"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        abdomens(**({"count": 1, "size": SMALL} | changes))


# --- Training in Hounsfield units


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_abdomens(folder, 3, (24, 20, 28), spacing=15.0)
    return folder


OPTIONS = TrainingOptions(features="cnn", grid=(6,), search=(5,), extent=(0.3,), intensities="ct")


def test_training_on_them_lowers_the_loss(people: Path) -> None:
    task = DiscreteTask(find_pairs(people), OPTIONS, TrainerOptions())
    batch = {name: value[None] for name, value in task.sample(torch.Generator().manual_seed(0)).items()}
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        loss = task(batch)["labels"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_a_network_of_ct_is_trained_on_what_it_is_registered_with(people: Path, tmp_path: Path) -> None:
    """Also one to start from, as the published weights: not on images from 0 to 1."""
    PDDNet(Architecture("cnn", 8, (6,), (5,), (0.3,), intensities="ct")).save(tmp_path / "w.safetensors")
    for options in (OPTIONS, TrainingOptions(weights=str(tmp_path / "w.safetensors"))):
        task = DiscreteTask(find_pairs(people), options, TrainerOptions())
        fixed = task.sample(torch.Generator().manual_seed(0))["fixed"]
        assert fixed.shape[1:] == (24, 21, 30)
        names = {file: nib.load(file).get_fdata() / 500 for file in sorted((people / "images").iterdir())}
        inside = fixed[0, :, :20, 1:29].double().numpy()
        assert any(np.allclose(inside, values, atol=1e-6) for values in names.values())
        assert (fixed[0, :, 20:] == -2.048).all()  # air, and not water


def test_intensities_of_ct_are_not_augmented(people: Path) -> None:
    with pytest.raises(l2rfast.InputError, match="intensity: expected 0"):
        DiscreteTask(find_pairs(people), OPTIONS, TrainerOptions(intensity=0.1))


def test_around_ct_there_is_air() -> None:
    """What a network of CT finds of sizes that it does not take is what it finds with air around them."""
    torch.manual_seed(0)
    method = with_network(PDDNet(Architecture("cnn", 8, (6,), (5,), (0.3,), intensities="ct")))
    images = [person.image[0, 0] for person in abdomens(2, (24, 22, 27), spacing=16.0)]
    around = [F.pad(image, (0, 0, 1, 1), value=-1024.0) for image in images]
    found = [
        apply(method, *(Volume(image, np.eye(4)) for image in pair), torch.device("cpu"), Stages(), without_folds=False)
        for pair in (images, around)
    ]
    assert torch.equal(found[0].displacement, found[1].displacement[:, :, :, 1:-1])
