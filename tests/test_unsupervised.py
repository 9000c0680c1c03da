"""Registration by VoxelMorph's network, and its refinement for one pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import l2rfast
from l2rfast.data.brains import STRUCTURES, real_pair, synthetic_pair
from l2rfast.methods.unsupervised import Architecture, VoxelMorph
from l2rfast.metrics import dice, digital_folding_fraction

PUBLISHED = "tutorials2019/unsupervised/models/cvpr2018_vm2_cc.h5"


def mean_dice(a: Tensor, b: Tensor) -> float:
    return float(torch.tensor(list(dice(a, b, STRUCTURES).values())).mean())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small network that was not trained, whose field is some voxels long."""
    torch.manual_seed(0)
    network = VoxelMorph(Architecture(3, (4, 4), (4, 4, 4, 4), velocity=True))
    torch.nn.init.normal_(network.field.weight, std=0.1)
    file = tmp_path_factory.mktemp("weights") / "network.safetensors"
    network.save(file)
    return file


@pytest.fixture(scope="module")
def pair() -> dict[str, Tensor]:
    return synthetic_pair(32)


# As it was published, the network's field has a Dice of 0.7146; without its folds hardly another.
@pytest.mark.parametrize(("finetune", "least", "most"), [(0, 0.7146 - 0.002, 0.7146 + 0.002), (50, 0.77, 1.0)])
def test_real_brains(real_data: Path, finetune: int, least: float, most: float) -> None:
    brains = real_pair()
    options = {"method": "unsupervised", "weights": real_data / PUBLISHED, "finetune": finetune}
    result = l2rfast.register(brains["fixed"], brains["moving"], init="none", **options)
    assert least <= mean_dice(brains["fixed_labels"], result.warp(brains["moving_labels"], mode="nearest")) <= most
    for field in (result.displacement, result.inverse):
        assert digital_folding_fraction(field).item() == 0.0
    tuned = ["contrast", *(f"refinement, LNCC, {level}" for level in ("coarse", "half", "full")), "displacement field"]
    stages = ["network", *(tuned if finetune else ["inverse"])]
    assert list(result.seconds)[-len(stages) :] == stages


def test_sizes_that_the_network_does_not_take_are_padded_and_cropped(weights: Path) -> None:
    """Background around an image that is background at its border anyway."""
    images = torch.zeros(2, 16, 20, 24)
    images[:, 4:-4, 5:-5, 6:-6] = torch.rand(2, 8, 10, 12)
    whole = l2rfast.register(*images, method="unsupervised", weights=weights).displacement
    part = images[:, 1:-1, :, 1:]  # padded by one on both sides, not at all, and by one behind
    got = l2rfast.register(*part, method="unsupervised", weights=weights).displacement
    assert got.shape == (1, 3, 14, 20, 23)
    assert whole.abs().max() > 0.1
    network = VoxelMorph.load(weights).eval()
    behind = torch.nn.functional.pad(part, [0, 1, 0, 0, 1, 1])[:, None, None]
    with torch.no_grad():
        expected = network(behind[1], behind[0]).displacement[..., 1:-1, :, :-1]
    torch.testing.assert_close(got, expected)


def test_fine_tuning_brings_images_nearer(pair: dict[str, Tensor], weights: Path) -> None:
    def similarity(result: Any) -> float:
        return float(l2rfast.local_ncc(pair["fixed"][None, None], result.warp(pair["moving"])[None, None]))

    plain, tuned = (
        l2rfast.register(pair["fixed"], pair["moving"], method="unsupervised", weights=weights, finetune=n)
        for n in (0, 20)
    )
    assert similarity(tuned) > similarity(plain)


def test_intensities_are_brought_to_zero_to_one(pair: dict[str, Tensor], weights: Path) -> None:
    unit = {
        name: (pair[name] - pair[name].min()) / (pair[name].max() - pair[name].min()) for name in ("fixed", "moving")
    }
    expected = l2rfast.register(unit["fixed"], unit["moving"], method="unsupervised", weights=weights).displacement
    scaled = (1000 * unit["fixed"] - 300, 7 * unit["moving"] + 20)
    got = l2rfast.register(*scaled, method="unsupervised", weights=weights).displacement
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({}, "weights: expected a file of weights"),
        ({"weights": 3}, "weights: expected a path"),
        ({"weights": "absent.safetensors"}, "path: cannot use absent.safetensors"),
        ({"weights": "absent.h5"}, "path: cannot use absent.h5"),
        (
            {"weights": "network.pt"},
            "weights: expected a name that ends in .safetensors or .h5 or .hdf5, got",
        ),
        ({"finetune": -1}, "finetune: expected"),
        ({"finetune": 2.5}, "finetune: expected"),
        ({"preset": "fast"}, "preset: the method unsupervised has none"),
        ({"grid_spacing": 4}, "grid_spacing: no option of the method unsupervised"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], begins: str, pair: dict[str, Tensor], weights: Path) -> None:
    given = ({"weights": weights} if options else {}) | options
    with pytest.raises(l2rfast.InputError) as caught:
        l2rfast.register(pair["fixed"], pair["moving"], method="unsupervised", **given)
    assert str(caught.value).startswith(begins)


def test_a_2d_network_is_named(pair: dict[str, Tensor], tmp_path: Path) -> None:
    VoxelMorph(Architecture(2, (4, 4), (4, 4, 4, 4))).save(tmp_path / "flat.safetensors")
    with pytest.raises(l2rfast.InputError, match="weights: expected those of a 3-D network"):
        l2rfast.register(pair["fixed"], pair["moving"], method="unsupervised", weights=tmp_path / "flat.safetensors")


def test_images_that_are_constant_are_named(weights: Path) -> None:
    image = torch.rand(16, 16, 16)
    with pytest.raises(l2rfast.InputError, match="moving: expected an image"):
        l2rfast.register(image, torch.ones(16, 16, 16), method="unsupervised", weights=weights)
