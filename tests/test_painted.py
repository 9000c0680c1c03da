"""Images painted from label maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import l2rfast
from l2rfast.data.painted import Range, label_map, painted_pair

STILL = Range(deformation=0, rotation=0, scale=0, shift=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(48, 40), (24, 32, 28)])
def test_label_maps_are_of_shapes_or_of_bodies(size: tuple[int, ...]) -> None:
    """A body has background at the corners of most images, and its layers; shapes fill the image."""
    random, kinds = generator(), set()
    for _ in range(12):
        labels = label_map(size, random)
        assert (labels.shape, labels.dtype) == ((1, 1, *size), torch.uint8)
        assert 2 <= len(labels.unique()) <= 29
        kinds.add(bool(labels[(0, 0, *[0] * len(size))] == 0 and labels[(0, 0, *[s // 2 for s in size])] > 0))
    assert kinds == {True, False}


@pytest.mark.parametrize("size", [(48, 40), (24, 32, 28)])
def test_a_pair_is_of_one_map_in_two_contrasts(size: tuple[int, ...]) -> None:
    labels = label_map(size, generator(3))
    pair, again, other = (painted_pair(labels, generator(seed)) for seed in (1, 1, 2))
    for kind in range(2):
        assert torch.equal(pair.images[kind], again.images[kind])
        assert not torch.equal(pair.images[kind], other.images[kind])
        assert pair.images[kind].aminmax() == (0, 1)
        assert (pair.images[kind].dtype, pair.labels[kind].dtype) == (torch.float32, torch.uint8)
        assert set(pair.labels[kind].unique().tolist()) <= set(labels.unique().tolist())
    assert not torch.equal(*pair.labels)


def test_what_does_not_move_has_the_map_s_labels_and_other_intensities() -> None:
    labels = label_map((64, 64), generator(3))
    plain = Range(**vars(STILL) | {"noise": 0, "blur": 0, "bias": 0, "gamma": 0, "thick": 0, "cropped": 0})
    orders = []
    for image, found in zip(*painted_pair(labels, generator(), plain), strict=True):
        assert torch.equal(found, labels)
        values = [image[labels == label] for label in labels.unique()]
        assert all(torch.equal(each, each[0].expand_as(each)) for each in values)
        orders.append(torch.stack([each[0] for each in values]).argsort().tolist())
    assert orders[0] != orders[1]


def test_cropped_images_are_empty_there_and_thick_slices_are_smooth_along_one_axis() -> None:
    labels = label_map((64, 64), generator(3))
    plain = vars(STILL) | {"noise": 0, "blur": 0, "bias": 0, "gamma": 0, "thick": 0, "cropped": 0}
    usual, cropped, thick = (
        painted_pair(labels, generator(4), Range(**plain | more)).images[0]
        for more in ({}, {"cropped": 1}, {"thick": 1})
    )
    differing = (cropped != usual)[0, 0]
    assert not cropped[0, 0][differing].any()
    assert differing.any()
    assert differing.any(0).sum() < 20 or differing.any(1).sum() < 20  # at one end of an axis
    steps = [(image.diff(dim=axis).abs().amax()) for image in (usual, thick) for axis in (2, 3)]
    assert min(steps[2] / steps[0], steps[3] / steps[1]) < 0.6


@pytest.mark.parametrize(
    ("call", "begins"),
    [
        (lambda: painted_pair(torch.zeros(1, 1, 20, 20), generator()), "labels: expected uint8"),
        (lambda: painted_pair(torch.zeros(1, 2, 20, 20, dtype=torch.uint8), generator()), "labels: expected uint8"),
        (lambda: label_map((64, 8), generator()), "size: expected"),
        (lambda: label_map((64,), generator()), "size: expected"),
        (lambda: Range(blur=-1), "blur: expected"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        call()
