"""The generated anatomies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.metrics import dice, folding_fraction


@pytest.mark.parametrize("size", [(64, 48), (32, 40, 36)])
def test_the_truth_is_the_truth(size: tuple[int, ...]) -> None:
    """The displacement brings the template's labels and image to the subject's, and nothing folds."""
    template, *subjects = anatomies(3, size, noise=0)
    assert not template.displacement.any()
    for subject in subjects:
        assert torch.equal(l2rfast.warp(template.labels, subject.displacement, mode="nearest"), subject.labels)
        warped = l2rfast.warp(template.image, subject.displacement)
        assert (warped - subject.image).square().mean() < 0.15 * (template.image - subject.image).square().mean()
        assert folding_fraction(subject.displacement).item() == 0
        before = list(dice(subject.labels, template.labels).values())
        assert 0.1 < sum(before) / len(before) < 0.9


def test_arguments_and_seed_give_the_subjects() -> None:
    first, again, other = (anatomies(3, (32, 32), seed=seed, contrasts=2) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.image, b.image)
        assert not torch.equal(a.image, c.image)
    assert torch.equal(anatomies(2, (32, 32), seed=1, contrasts=2)[1].image, first[1].image)


def test_contrasts_are_taken_in_turns() -> None:
    """Where the first and the third agree on the order of the structures' intensities, the second does not."""
    orders = []
    for subject in anatomies(3, (64, 64), contrasts=2, noise=0):
        present = subject.labels.unique()
        medians = [subject.image[subject.labels == label].median() for label in present]
        orders.append(present[torch.stack(medians).argsort()].tolist())
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert orders[0][0] == orders[1][0] == 0


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"size": (64,)}, "size: expected"),
        ({"size": (64, 8)}, "size: expected"),
        ({"count": 0}, "count: expected"),
        ({"contrasts": 0}, "contrasts: expected"),
        ({"structures": 256}, "structures: expected at most"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        anatomies(**({"count": 1, "size": (32, 32)} | changes))
