"""Whether two images are of one contrast, and what the automatic metric makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.errors import InputWarning
from l2rfast.methods.contrast import one_contrast, recast
from l2rfast.methods.discrete.options import PRESETS, choose

CONTRASTS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "the same": (lambda image: image, True),
    "brighter": (lambda image: 300 * image + 40, True),
    "inverted": (lambda image: 1 - image, False),
    "not monotone": (lambda image: (5 * image).sin(), False),
    "another subject's noise": (
        lambda image: torch.rand(image.shape, generator=torch.Generator().manual_seed(0)),
        False,
    ),
}


@pytest.fixture(scope="module")
def head() -> Tensor:
    (subject,) = anatomies(1, (40, 44, 36), structures=5, noise=0.03, seed=1)
    return subject.image[0, 0]


@pytest.mark.parametrize("name", CONTRASTS)
def test_contrasts_are_told_apart(head: Tensor, name: str) -> None:
    change, expected = CONTRASTS[name]
    other = change(head.roll(1, 0))
    assert one_contrast(head, other, None)[0] == one_contrast(other, head, None)[0] == expected


def test_the_numbers_are_the_correlation_and_the_ratio_of_variances() -> None:
    """Of what is not dark and counts; eta squared is the share of the variance that the means within bins explain."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, 20_000)
    y = 0.5 + 0.4 * (x - 0.5) + random.normal(0, 0.05, x.size)
    valid = x > 0.3
    y[~valid] = random.uniform(0, 1, (~valid).sum())
    one, why = one_contrast(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(valid.astype(float)))
    r = np.corrcoef(x[valid], y[valid])[0, 1]
    assert one
    assert f"correlation of {r:.2f}" in why


def test_what_cannot_be_told_counts_as_one_contrast() -> None:
    assert one_contrast(torch.zeros(9, 9), torch.rand(9, 9), None)[0]
    assert one_contrast(torch.rand(30, 30), torch.rand(30, 30), torch.zeros(30, 30))[0]


def test_every_preset_looks_for_itself() -> None:
    assert {preset.metric for preset in PRESETS.values()} == {"auto"}
    assert choose("accurate").full_iterations > 0 == choose("accurate", metric="mind").full_iterations


@pytest.mark.parametrize("preset", ["fast", "default"])
@pytest.mark.parametrize(("name", "metric"), [("brighter", "lncc"), ("inverted", "mind")])
def test_the_metric_is_that_of_the_contrasts(head: Tensor, preset: str, name: str, metric: str) -> None:
    """To the bit as if it were asked for; which it was, and why, stands with the options."""
    other = CONTRASTS[name][0](head.roll(1, 0))
    found = l2rfast.register(head, other, preset=preset, init="none")
    assert found.options["metric"] == metric
    assert ("one" if metric == "lncc" else "two") + " contrast" in found.options["metric_because"]
    assert (found.options["full_iterations"] == 0) == (metric == "mind" or preset == "fast")
    asked = l2rfast.register(head, other, preset=preset, init="none", metric=metric)
    assert "metric_because" not in asked.options
    assert torch.equal(found.displacement, asked.displacement)


@pytest.mark.parametrize(
    ("name", "metric", "said"),
    [
        ("brighter", "auto", []),
        ("inverted", "auto", ["window, step_spacing, full_iterations: not used, as mind is what auto came to"]),
        ("inverted", ("lncc", "auto"), ["step_spacing: not used, as lncc and mind is what auto came to"]),
    ],
)
def test_what_comes_to_nothing_by_the_metric_that_is_found_is_said(
    head: Tensor, name: str, metric: str | tuple[str, ...], said: list[str]
) -> None:
    fixed, moving = head[::2, ::2, ::2], CONTRASTS[name][0](head[::2, ::2, ::2].roll(1, 0))
    several = [fixed, fixed], [fixed, moving]
    pair = (fixed, moving) if isinstance(metric, str) else several
    options = {"window": 5, "step_spacing": 2, "full_iterations": 1, "iterations": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        l2rfast.register(*pair, init="none", metric=metric, **options)
    assert [str(one.message) for one in caught if one.category is InputWarning] == said


@pytest.mark.parametrize("name", ["brighter", "inverted"])
def test_an_image_is_recast_in_the_contrast_of_another(head: Tensor, name: str) -> None:
    other = CONTRASTS[name][0](head)
    found = recast(other, other, head, None)
    assert float((found - head).abs().mean()) < 0.02
    assert one_contrast(head, found, None)[0]


def test_what_does_not_count_does_not_tell_what_an_intensity_becomes(head: Tensor) -> None:
    counts = torch.ones_like(head)
    counts[:10] = 0
    wrong = head.clone()
    wrong[:10] = 0.5
    found = recast(1 - head, 1 - head, wrong, counts)
    assert torch.equal(found, recast(1 - head, 1 - head, head, counts))
    assert not torch.equal(found, recast(1 - head, 1 - head, wrong, None))
    for alone in (torch.zeros_like(head), (head == head.min()).float()):
        assert torch.equal(recast(head, head, wrong, alone), head)


def test_an_intensity_between_those_that_lie_on_the_other_image_is_between() -> None:
    warped = torch.cat([torch.zeros(500), torch.ones(500)]).view(10, 100)
    fixed = torch.where(warped > 0, 2.0, 6.0)
    moving = torch.linspace(0, 1, 1000).view(10, 100)
    found = recast(moving, warped, fixed, None).flatten()
    assert found[0] == pytest.approx(6)
    assert found[-1] == pytest.approx(2)
    assert (found.diff() <= 1e-5).all()
