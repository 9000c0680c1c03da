"""Refinement: what needs no displacement gets none, and steps are as long as what is left, at any size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

import l2rfast
from l2rfast.data.synthetic import Anatomy, anatomies
from l2rfast.methods.refine import Fields, refine, smoothed
from l2rfast.methods.similarity import Distance
from l2rfast.methods.stages import Stages

EVERY = [
    {"preset": "fast"},
    {"preset": "default"},
    {"preset": "accurate"},
    {"preset": "fast", "metric": "mind"},
    {"preset": "default", "metric": "ssd"},
    {"preset": "default", "metric": "mi"},
]


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
    change = l2rfast.jacobian_determinant(result.displacement) - 1
    assert change.abs().max() < (1e-3 if options.get("metric") == "mi" else 1e-5)  # histograms have bins
    assert torch.equal(result.warp(labels, mode="nearest"), labels)


@pytest.mark.parametrize("noise", [0.001, 0.01])
@pytest.mark.parametrize(
    "options",
    [
        {"preset": "fast"},
        {"preset": "default"},
        {"preset": "fast", "metric": "ssd"},
        {"preset": "fast", "metric": "mi"},
    ],
)
def test_a_rescan_stays_but_for_its_noise(head: tuple[Tensor, Tensor], noise: float, options: dict[str, Any]) -> None:
    image, labels = head
    generator = torch.Generator().manual_seed(1)
    scans = [image + noise * torch.randn(image.shape, generator=generator) for _ in range(2)]
    moved = l2rfast.register(*scans, **options).displacement[0].norm(dim=0)
    assert moved[labels > 0].mean() < 0.06


def there_and_back(distance: Distance, size: tuple[int, ...], stages: Stages | None = None, **options: Any) -> Fields:
    """From nothing, with the same distance on both sides, but the other way."""
    still = torch.zeros(1, len(size), *size)

    def other(field: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = distance(-field)
        return loss, -gradient

    distances = distance, other
    found = refine(distances, (still, still), stages=stages or Stages(), **options)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [((28, 28), None), ((20, 22, 24), None), ((36, 36, 36), None), ((29, 28), [2, 1]), ((21, 22, 25), [2, 2, 3])],
)
@pytest.mark.parametrize("shift", [0.01, 1.5])
def test_steps_become_as_small_as_what_is_left(shape: tuple[int, ...], blocks: list[int] | None, shift: float) -> None:
    """Of a parabola that is as steep as images are, at any number of voxels."""

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        left = field - shift
        return 0.3 * left.square().sum(1).mean(), 0.6 * left / field[0, 0].numel()

    there, back = there_and_back(distance, shape, iterations=20, rate=0.5, blocks=blocks)
    middle = (0, slice(None), *[side // 2 for side in shape])
    for found, expected in ((there[middle], shift), (back[middle], -shift)):
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0.05, atol=0)


def test_exchanged_images_give_exchanged_fields(head: tuple[Tensor, Tensor]) -> None:
    image, _ = head
    other = image.roll((1, 2), (0, 1))[..., :-1]
    pairs = (image[..., :-1], other), (other, image[..., :-1])
    one, two = (l2rfast.register(*pair, init="none") for pair in pairs)
    apart = l2rfast.compose(one.displacement, two.displacement).norm(dim=1)
    assert apart.mean() < 0.02 < one.displacement.norm(dim=1).mean()
    assert one.inverse_residual < 0.02


def test_steps_are_lengths() -> None:
    """What is the same in mm is refined alike, by voxels that are cubes and by ones that are three times as long."""
    rough = torch.randn(1, 2, 12, 1, generator=torch.Generator().manual_seed(0))

    def found(sides: list[float]) -> Tensor:
        unit = torch.tensor(sides).view(1, 2, 1, 1)

        def distance(field: Tensor) -> tuple[Tensor, Tensor]:
            left = field * unit - rough
            return left.square().sum(1).mean() / 2, left * unit / field[0, 0].numel()

        return unit * there_and_back(distance, (12, 12), iterations=6, rate=0.5, sides=sides)[0]

    torch.testing.assert_close(found([1.0, 3.0]), found([1.0, 1.0]), rtol=0, atol=2e-3)


@pytest.mark.parametrize("blocks", [[1, 1], [2, 2], [1, 3]])
def test_steps_on_blocks_reach_what_is_smoother_than_they(blocks: list[int]) -> None:
    size = 24, 21
    rows, columns = torch.meshgrid(*[torch.arange(n) / n for n in size], indexing="ij")
    wanted = torch.stack([(6.3 * rows).sin() * (3.1 * columns).sin(), (3.1 * rows).cos()])[None]

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        left = field - wanted
        return left.square().sum(1).mean() / 2, left / field[0, 0].numel()

    found = there_and_back(distance, size, iterations=12, rate=0.5, blocks=blocks)[0]
    middle = (0, slice(None), slice(4, -4), slice(4, -4))
    assert (found - wanted)[middle].abs().max() < 0.1 < wanted[middle].abs().max()


def test_smoothing_is_of_lengths() -> None:
    """The variance of what one voxel is spread to, along an axis of longer sides as along the others."""
    one = torch.zeros(1, 1, 21, 21)
    one[..., 10, 10] = 1
    spread = smoothed(one, [1.0, 2.0], 3)[0, 0]
    distance = (torch.arange(21.0) - 10).square()
    assert spread.sum(1) @ distance == pytest.approx(3 * 2 / 3, rel=1e-5)
    assert spread.sum(0) @ distance == pytest.approx(3 * 2 / 3 / 4, rel=1e-5)
    torch.testing.assert_close(smoothed(one, [1.0, 1.0], 3), l2rfast.box_average(one, 1, passes=3))


CONTRASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "the same": lambda image: image,
    "inverted": lambda image: 1 - image,
    "gamma": lambda image: image.clamp(0) ** 2.2,
    "not monotone": lambda image: (3.2 * image.clamp(0)).sin(),
}


@pytest.fixture(scope="module")
def deformed() -> tuple[Anatomy, Anatomy]:
    template, subject = anatomies(2, (48, 48, 48), structures=6, noise=0.02, seed=3)
    return template, subject


@pytest.mark.parametrize(
    ("metric", "contrast", "least"),
    [
        ("ssd", "the same", 0.5),
        ("mi", "the same", 0.5),
        ("mi", "inverted", 0.5),
        ("mi", "gamma", 0.5),
        ("mi", "not monotone", 0.7),  # two of the structures look alike there
    ],
)
def test_known_displacements_are_recovered(
    deformed: tuple[Anatomy, Anatomy], metric: str, contrast: str, least: float
) -> None:
    """The mean error over the body is such a part of the displacement."""
    template, subject = deformed
    moving = CONTRASTS[contrast](template.image[0, 0])
    result = l2rfast.register(subject.image[0, 0], moving, metric=metric, preset="fast", init="none")
    body = subject.labels[0, 0] > 0
    before, after = (
        field.norm(dim=1)[0][body].mean()
        for field in (subject.displacement, result.displacement - subject.displacement)
    )
    assert after < least * before


def parabola(steps: int, left: float) -> tuple[Distance, list[Tensor]]:
    """One of which every look is kept; after so many steps, of two looks each, it is flat."""
    seen: list[Tensor] = []

    def distance(field: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(field)
        way = field - left if len(seen) <= 2 * steps else torch.zeros_like(field)
        return 0.5 * way.square().sum(1).mean(), 0.9 * way / field[0, 0].numel()

    return distance, seen


def test_steps_end_where_nothing_is_gained() -> None:
    distance, seen = parabola(4, 1.0)
    there_and_back(distance, (20, 22), iterations=50, rate=0.5)
    assert 2 * 4 < len(seen) <= 2 * (4 + 6)


def test_no_step_begins_that_would_end_too_late() -> None:
    distance, seen = parabola(1000, 30.0)
    stages = Stages(budget=3600.0)
    stages.voxels = 20 * 22
    stages.took(1800.0, 20 * 22)  # and as long again for what comes after the last
    there_and_back(distance, (20, 22), iterations=50, rate=0.5, stages=stages)
    assert not seen
    assert stages.left_out == 50
    stages = Stages(budget=3600.0)
    there_and_back(distance, (20, 22), iterations=3, rate=0.5, stages=stages)
    assert len(seen) == 2 * 3
    assert not stages.left_out


def test_steps_that_make_it_worse_become_shorter_and_are_undone() -> None:
    """Towards something that is to be gained far away, uphill."""
    lengths = []

    def distance(field: Tensor, way: float = 1.0) -> tuple[Tensor, Tensor]:
        lengths.append(float(field.abs().max()))
        return field.square().sum(1).mean(), torch.full_like(field, way)

    still = torch.zeros(1, 2, 20, 22)
    distances = distance, partial(distance, way=-1.0)
    assert refine(distances, (still, still), iterations=6, rate=0.5, stages=Stages()) is None
    ways = [later - earlier for earlier, later in zip(lengths[::2], lengths[2::2], strict=False)]
    assert 0 < ways[-1] < 0.3 * ways[0]


@pytest.mark.parametrize("seed", range(2))
def test_a_slab_is_not_made_worse(seed: int) -> None:
    """Three slices of which only the middle one holds anything, moved within it."""
    rng, size = np.random.default_rng(seed), (40, 44, 3)
    places = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    texture = gaussian_filter(rng.standard_normal(size), [2, 2, 0.75])
    fixed = ((sum(x * x for x in places) < 0.7) * (3 + texture / texture.std())).astype(np.float32)
    field = [gaussian_filter(rng.standard_normal(size), [6, 6, 0.75]) for _ in range(2)]
    way = [2 * x / abs(x).max() for x in field] + [0.0]
    places = [i + x for i, x in zip(np.indices(size), way, strict=True)]
    moving = map_coordinates(fixed, places, order=1, mode="nearest").astype(np.float32)
    warped = l2rfast.register(fixed, moving, init="none").warp(torch.from_numpy(moving)).numpy()
    assert np.square(warped - fixed).mean() < np.square(moving - fixed).mean()
