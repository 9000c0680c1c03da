"""Refinement: what needs no displacement gets none, and steps are as long as what is left, at any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.methods.refine import refine

EVERY = [{"preset": "fast"}, {"preset": "default"}, {"preset": "accurate"}, {"preset": "fast", "metric": "mind"}]


@pytest.fixture(scope="module")
def head() -> tuple[Tensor, Tensor]:
    (subject,) = anatomies(1, (48, 56, 44), structures=4, noise=0.01)
    return subject.image[0, 0], subject.labels[0, 0]


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_an_image_stays_on_itself(head: tuple[Tensor, Tensor], options: dict[str, Any], scale: float) -> None:
    image, labels = head
    result = l2rfast.register(scale * image, scale * image.clone(), **options)
    assert result.displacement.abs().max() < 1e-3
    torch.testing.assert_close(l2rfast.jacobian_determinant(result.displacement), torch.ones(1, *image.shape))
    assert torch.equal(result.warp(labels, mode="nearest"), labels)


@pytest.mark.parametrize("noise", [0.001, 0.01])
@pytest.mark.parametrize("preset", ["fast", "default"])
def test_a_rescan_stays_but_for_its_noise(head: tuple[Tensor, Tensor], noise: float, preset: str) -> None:
    image, labels = head
    generator = torch.Generator().manual_seed(1)
    scans = [image + noise * torch.randn(image.shape, generator=generator) for _ in range(2)]
    moved = l2rfast.register(*scans, preset=preset).displacement[0].norm(dim=0)
    assert moved[labels > 0].mean() < 0.06


@pytest.mark.parametrize("shape", [(28, 28), (20, 22, 24), (36, 36, 36)])
@pytest.mark.parametrize("shift", [0.01, 1.5])
def test_steps_become_as_small_as_what_is_left(shape: tuple[int, ...], shift: float) -> None:
    """Of a parabola that is as steep as images are, at any number of voxels."""

    def distance(field: Tensor) -> Tensor:
        return 0.6 * (field - shift) / field[0, 0].numel()

    start = torch.zeros(1, len(shape), *shape)
    found = refine(distance, start, iterations=20, smoothness=0.0, rate=0.5, advance=lambda fraction: None)
    middle = found[(0, slice(None), *[side // 2 for side in shape])]
    torch.testing.assert_close(middle, torch.full_like(middle, shift), rtol=0.05, atol=0)


def test_steps_are_lengths() -> None:
    """What is the same in mm is refined alike, by voxels that are cubes and by ones that are three times as long."""
    target = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    unit = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)

    def found(sides: Tensor) -> Tensor:
        def distance(field: Tensor) -> Tensor:
            return (field * sides - target) * sides / field[0, 0].numel()

        start = torch.zeros_like(target)
        return sides * refine(
            distance,
            start,
            iterations=6,
            smoothness=0.0,
            rate=0.5,
            advance=lambda fraction: None,
            sides=sides.flatten().tolist(),
        )

    torch.testing.assert_close(found(unit), found(torch.ones_like(unit)))
