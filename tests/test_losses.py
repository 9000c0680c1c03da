"""Losses beside the definitions of others."""

from __future__ import annotations

import pytest
import torch
from samples import noise

from l2rfast.losses import bending_energy


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # in MONAI's differences
@pytest.mark.parametrize("size", [(3, 7), (5, 4, 3)])
def test_compact_bending_energy_is_monais(size: tuple[int, ...]) -> None:
    from monai.losses import BendingEnergyLoss

    field = noise(2, len(size), *size).requires_grad_()
    ours, theirs = (loss(field) for loss in (lambda u: bending_energy(u, stencil="compact"), BendingEnergyLoss()))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, field)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_only_the_compact_bending_energy_sees_what_alternates() -> None:
    field = torch.ones(1, 2, 6, 6)
    field[..., ::2] = -1
    assert bending_energy(field) == 0
    assert bending_energy(field, stencil="compact") == 16
