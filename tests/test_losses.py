"""Losses beside the definitions of others, and their arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import noise

from l2rfast import InputError
from l2rfast.losses import bending_energy, diffusion_energy


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


def test_only_the_ratios_of_spacings_count() -> None:
    disp = noise(2, 3, 5, 6, 7).float()
    expected = diffusion_energy(disp, spacing=[1, 2, 3])
    for unit in (2.0**-900, 2.0**900, 3e-30, 7e30):
        got = diffusion_energy(disp, spacing=[unit, 2 * unit, 3 * unit])
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spacing", [b"123", "123", 10**400, torch.ones(3, device="meta")])
def test_what_is_no_spacing(spacing: Any) -> None:
    with pytest.raises(InputError, match=r"^spacing: expected 3 positive numbers"):
        diffusion_energy(noise(1, 3, 4, 4, 4), spacing=spacing)
