"""Random deformations and intensities of the scans of a pair."""

from __future__ import annotations

import pytest
import torch

import l2rfast
from l2rfast.methods.training.augmentation import Shared, deformed, random_affine, random_intensities
from l2rfast.methods.training.options import TrainerOptions


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


def test_around_labels_there_are_zeros_and_images_go_on() -> None:
    images = torch.ones(1, 3, 30, 24)
    options = TrainerOptions(elastic=1.0)
    moved = deformed(images, options, torch.Generator().manual_seed(0), Shared(), shift=6.0, apart=2)
    assert torch.allclose(moved[:, 0], torch.ones(1))
    assert moved[:, 1:].min() == 0
    assert torch.equal(moved[:, 1], moved[:, 2])
    whole = deformed(images, options, torch.Generator().manual_seed(0), Shared(), shift=6.0)
    assert torch.allclose(whole, torch.ones(1))


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
