"""Displacement fields without folds, and with their inverse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from l2rfast import box_average, compose, digital_jacobian, invert
from l2rfast.io import Volume
from l2rfast.methods.folds import LEAST, settled, unfolded
from l2rfast.methods.method import Found, Method, apply
from l2rfast.methods.result import Registration
from l2rfast.methods.stages import Stages

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
    ways = [compose(*pair)[inner].abs().mean() for pair in ((there, back), (back, there))]
    exact_one_way = compose(invert(there), there)[inner].abs().mean()
    assert max(ways) < 0.75 * exact_one_way
    middle = compose(field, apart / 2)  # half of the way that is missing
    assert (there - middle)[inner].abs().max() < 0.01 < (there - field)[inner].abs().mean()


def test_a_networks_field_is_given_without_folds() -> None:
    """Both ways; that of training as it is. Mirrored grids have maps that mirror, which are left alone."""
    noise = rough((18, 16, 20), 0.8)

    def found(affine: np.ndarray, *, aligned: bool, without_folds: bool) -> Registration:
        method = Method({}, lambda name, image, mask: image, lambda pair, stages: Found(noise.clone()), aligned)
        image = Volume(torch.rand(18, 16, 20, generator=torch.Generator().manual_seed(0)), np.eye(4))
        other = replace(image, affine=affine)
        return apply(method, image, other, torch.device("cpu"), Stages(), without_folds=without_folds)

    mirror = np.diag([-1.0, 2.0, 1.5, 1.0])
    for affine, aligned in ((np.eye(4), True), (np.diag([0.5, 2.0, 1.5, 1.0]), False), (mirror, False)):
        raw = found(affine, aligned=aligned, without_folds=False)
        clean = found(affine, aligned=aligned, without_folds=True)
        sign = -1 if affine is mirror else 1
        assert digital_jacobian(raw.displacement).min() < 0
        if sign > 0:
            assert min(digital_jacobian(u).min() for u in (clean.displacement, clean.inverse)) > 0
        # From where fixed voxels go in moving.
        indices = torch.from_numpy(np.linalg.inv(affine)[:3, :3]).float()
        places = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in noise.shape[2:]], indexing="ij"))
        for result, field in ((raw, noise), (clean, unfolded(noise))):
            reached = (indices @ (places + result.displacement[0]).flatten(1)).view_as(places) - places
            torch.testing.assert_close(reached if not aligned else result.displacement[0], field[0], atol=1e-4, rtol=0)
