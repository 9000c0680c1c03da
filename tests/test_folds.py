"""Displacement fields without folds, and with their inverse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l2rfast import box_average, compose, digital_jacobian, invert
from l2rfast.methods.folds import LEAST, settled, unfolded

SIZES = [(7, 9), (6, 5, 8), (9, 1), (5, 7, 1), (24, 20, 22)]


def rough(size: tuple[int, ...], deviation: float, seed: int = 0) -> Tensor:
    return deviation * torch.randn(1, len(size), *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("deviation", [0.3, 3.0, 100.0])
def test_unfolded_has_none(size: tuple[int, ...], deviation: float) -> None:
    result = unfolded(rough(size, deviation))
    assert digital_jacobian(result).min() > LEAST
    assert result.shape == (1, len(size), *size)
    assert result.abs().max() > 0


def test_what_has_no_fold_near_stays_as_it_is() -> None:
    field = box_average(rough((24, 24, 24), 1.0), 2, passes=3)
    assert torch.equal(unfolded(field), field)
    torn = field.clone()
    torn[0, 0, 12, 12, 12] += 4
    result = unfolded(torn)
    assert torch.equal(result[..., :4], field[..., :4])
    assert (result - field).abs().max() < 1


@pytest.mark.parametrize("size", [(24, 26), (16, 18, 20)])
def test_two_fields_that_are_nearly_inverse_meet_in_the_middle(size: tuple[int, ...]) -> None:
    field = 4 * box_average(rough(size, 1.0).double(), 3, passes=3)
    apart = torch.full_like(field, 0.1)
    there, back = settled((field, compose(-apart, invert(field))))  # which comes back 0.1 short
    inner = (..., *[slice(4, -4)] * len(size))
    assert compose(there, back)[inner].abs().max() < 1e-5
    middle = compose(field, apart / 2)  # half of the way that is missing
    assert (there - middle)[inner].abs().max() < 0.01 < (there - field)[inner].abs().mean()
