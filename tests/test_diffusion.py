"""The stiffness of fields beside a distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l2rfast.methods.diffusion import stiffened


def nothing(field: Tensor) -> tuple[Tensor, Tensor]:
    return field.new_zeros(()), torch.zeros_like(field)


def energy(field: Tensor, sides: list[float]) -> Tensor:
    """The sums over components and axes of the mean squared derivatives, in units of the shortest side."""
    lengths = field * field.new_tensor(sides).view(1, -1, *[1] * len(sides))
    squares = [(lengths.diff(dim=axis) / side).square().mean() for axis, side in enumerate(sides, 2)]
    return len(sides) * torch.stack(squares).sum()


@pytest.mark.parametrize("sides", [[1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 4.5]])
def test_the_energy_and_its_gradient(sides: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(1, len(sides), *(7, 6, 5)[: len(sides)], dtype=torch.float64, generator=generator)
    field.requires_grad_()
    expected = 1.5 * energy(field, sides)
    expected.backward()
    for distance in stiffened((nothing, nothing), 3.0, sides):
        loss, gradient = distance(field.detach())
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, field.grad, rtol=1e-10, atol=1e-14)


def test_it_is_beside_the_distance_and_a_translation_costs_nothing() -> None:
    def one(field: Tensor) -> tuple[Tensor, Tensor]:
        return field.sum(), torch.ones_like(field)

    field = torch.full((1, 3, 4, 5, 6), 2.5)
    loss, gradient = stiffened((one, one), 2.0, [1, 1, 1])[1](field)
    assert loss == field.sum()
    assert (gradient == 1).all()


def test_a_stretch_costs_the_same_at_every_level() -> None:
    """As many displacements of one size a voxel as there are axes, whatever the number of the voxels."""
    for number in (20, 40):
        along = torch.arange(float(number)) * 0.1
        field = torch.stack(torch.meshgrid(along, along, indexing="ij"))[None]
        loss, _ = stiffened((nothing, nothing), 2.0, [1, 1])[0](field)
        assert float(loss) == pytest.approx(2 * 0.01, rel=1e-5)
