"""Several contrasts of one subject: one field by all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import invoke
from test_similarity import smooth
from torch import Tensor

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.errors import InputError, InputWarning
from l2rfast.io import Volume, write_image
from l2rfast.methods.similarity import summed

Pairs = tuple[list[Tensor], list[Tensor]]
OPTIONS: dict[str, Any] = {"preset": "fast", "init": "none", "metric": "lncc"}


@pytest.fixture(scope="module")
def scans() -> Pairs:
    """Two heads, of which the first contrast shows the outline alone and the second what is inside."""
    template, subject = anatomies(2, (32, 36, 28), structures=4, deformation=0.02, noise=0.02, seed=2)
    both = []
    for one in (subject, template):
        outline = (one.labels[0, 0] > 0).float() + 0.02 * torch.randn(32, 36, 28, generator=torch.manual_seed(0))
        both.append([outline, one.image[0, 0]])
    return both[0], both[1]


def field(fixed: Any, moving: Any, **options: Any) -> Tensor:
    return l2rfast.register(fixed, moving, **{**OPTIONS, **options}).displacement


def test_one_contrast_in_a_list_is_that_contrast(scans: Pairs) -> None:
    (fixed, _), (moving, _) = scans
    assert torch.equal(field([fixed], [moving], weights=[3]), field(fixed, moving))


@pytest.mark.parametrize("metric", ["lncc", ["lncc", "mind"], ["ssd", "mi"]])
def test_a_contrast_of_no_weight_is_not_there(scans: Pairs, metric: Any) -> None:
    first = metric if isinstance(metric, str) else metric[0]
    alone = field(scans[0][0], scans[1][0], metric=first)
    assert torch.equal(field(*scans, weights=[0.5, 0], metric=metric), alone)
    assert not torch.equal(field(*scans, weights=[0.5, 0.5], metric=metric), alone)


def test_twice_the_same_is_as_once(scans: Pairs) -> None:
    fixed, moving = scans[0][1], scans[1][1]
    torch.testing.assert_close(field([fixed] * 2, [moving] * 2), field(fixed, moving), rtol=0, atol=0.02)


def test_what_only_the_second_shows_is_aligned(scans: Pairs) -> None:
    """By its squared differences, far better than by the first alone; what is warped is the first."""
    (first, second), (moving, other) = scans

    def left(displacement: Tensor) -> float:
        return float((l2rfast.warp(other[None, None], displacement)[0, 0] - second).square().mean())

    result = l2rfast.register(*scans, **OPTIONS)
    assert left(result.displacement) < 0.75 * left(field(first, moving))
    assert torch.equal(result.moving.data, moving)
    assert result.options["metric"] == "lncc"


def test_the_metric_of_each_is_found_out(scans: Pairs) -> None:
    second, other = scans[0][1], scans[1][1]
    result = l2rfast.register([second, second], [other, 1 - other], preset="default", init="none")
    assert result.options["metric"] == ["lncc", "mind"]
    assert result.options["full_iterations"] > 0
    assert result.options["metric_because"].startswith("one contrast: ")
    assert "; two contrasts: " in result.options["metric_because"]
    assert {"refinement, LNCC and MIND, half", "refinement, LNCC, full"} <= set(result.seconds)


def test_another_grid_of_the_same_subject(scans: Pairs) -> None:
    """Through its header; the part of the first that it does not cover does not count, which is said."""
    first, second = scans[0]
    coarse = Volume(second[::2, ::2, ::2].contiguous(), np.diag([2.0, 2, 2, 1]))
    with pytest.warns(InputWarning, match="fixed, contrast 2: covers [0-9]+ % of the first contrast"):
        found = field([first, coarse], [scans[1][0], scans[1][1]])
    assert (found - field(*scans)).norm(dim=1).mean() < 0.5
    elsewhere = Volume(second, np.array([[1.0, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    with pytest.raises(InputError, match=r"moving, contrast 2: expected an image that overlaps the first contrast"):
        field(scans[0], [scans[1][0], elsewhere])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f, m: ((f, m[:1]), {}),
            "fixed, moving: expected as many contrasts of one as of the other, got 2 and 1",
        ),
        (lambda f, m: (([], m), {}), "fixed: expected an image, or one for each contrast, got none"),
        (lambda f, m: ((f, m), {"weights": [1, 2, 3]}), "weights: expected one for each contrast, 2, got 3"),
        (lambda f, m: ((f[0], m[0]), {"weights": [1, 2]}), "weights: expected one for each contrast, 1, got 2"),
        (lambda f, m: ((f, m), {"metric": ["mi"]}), "metric: expected one for each contrast, 2, got 1"),
        (
            lambda f, m: ((f, m), {"metric": ["mi", "cc"]}),
            "metric: expected one of auto, lncc, ssd, mi, mind, got 'cc'",
        ),
        (lambda f, m: ((f, m), {"weights": [1, -1]}), "weights: expected numbers, none below 0 and not all 0"),
        (lambda f, m: ((f, m), {"weights": [0, 0]}), "weights: expected numbers, none below 0 and not all 0"),
        (lambda f, m: ((f, m), {"weights": [1e308, 1e308]}), "weights: expected numbers, none below 0 and not all 0"),
        (
            lambda f, m: ((f, m), {"weights": [1, float("nan")]}),
            "weights: expected numbers, none below 0 and not all 0",
        ),
        (lambda f, m: ((f, m), {"weights": "w.pth"}), "weights: a network's, and the method discrete has none"),
        (lambda f, m: ((f, m), {"metric": ["mind"] * 2, "full_iterations": 1}), "full_iterations: expected 0"),
    ],
)
def test_what_does_not_fit_is_refused(scans: Pairs, change: Callable[..., Any], message: str) -> None:
    images, options = change(*scans)
    with pytest.raises(InputError, match="^" + message.replace("[", r"\[")):
        l2rfast.register(*images, init="none", **options)


def test_linear_maps_are_of_one_contrast(scans: Pairs) -> None:
    with pytest.raises(InputError, match="fixed, moving: expected one contrast but for the method discrete, got 2"):
        l2rfast.register(*scans, transform="rigid")


def test_the_sum_of_distances_is_by_shares() -> None:
    one, other = smooth(3, 1), smooth(3, 2)
    distances = [
        lambda field: (field.new_tensor(2.0), one.clone()),
        lambda field: (field.new_tensor(5.0), other.clone()),
    ]
    loss, gradient = summed(distances, [1.0, 3.0])(torch.zeros_like(one))
    assert float(loss) == pytest.approx(0.25 * 2 + 0.75 * 5)
    torch.testing.assert_close(gradient, 0.25 * one + 0.75 * other)


@pytest.mark.parametrize("positional", [True, False])
def test_the_command_takes_them(scans: Pairs, tmp_path: Path, positional: bool) -> None:
    files = {}
    for side, images in zip(("fixed", "moving"), scans, strict=True):
        for k, image in enumerate(images):
            files[side, k] = str(tmp_path / f"{side}{k}.nii.gz")
            write_image(files[side, k], Volume(image, np.eye(4)))
    first = [files["fixed", 0], files["moving", 0]] if positional else ["--fixed", files["fixed", 0]]
    rest = [] if positional else ["--moving", files["moving", 0]]
    further = [*rest, "--fixed", files["fixed", 1], "--moving", files["moving", 1]]
    options = ["--preset", "fast", "--init", "none", "--metric", "lncc", "--metric", "mind"]
    options += ["--weight", "1", "--weight", "0.5", "--quiet"]
    code, text = invoke("register", *first, *further, *options, "--out", str(tmp_path / "out"))
    assert (code, text) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["options"]["metric"] == ["lncc", "mind"]
    assert report["options"]["weights"] == [1, 0.5]
    assert report["inputs"]["moving, contrast 2"]["path"] == files["moving", 1]
    expected = field(*scans, metric=["lncc", "mind"], weights=[1, 0.5])
    warped = torch.from_numpy(np.asarray(l2rfast.io.read_image(tmp_path / "out" / "warped.nii.gz").data))
    torch.testing.assert_close(
        warped, l2rfast.warp(scans[1][0][None, None], expected, padding="border")[0, 0], rtol=0, atol=0.2
    )
