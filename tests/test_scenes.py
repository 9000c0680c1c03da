"""What the examples of the documentation show, at its small size."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from l2rfast.data import scenes
from l2rfast.io import read_image, read_labels, read_masks
from l2rfast.methods.training.cases import find_pairs


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is to be done at the end of the process, done when called."""
    left: list[Callable[[], None]] = []

    def register(call: Callable[..., Any], *args: Any, **options: Any) -> None:
        left.append(lambda: call(*args, **options))

    monkeypatch.setattr(atexit, "register", register)
    monkeypatch.setattr(scenes, "SMALL", True)
    for made in (scenes.pair, scenes.prostates):
        made.cache_clear()
    yield lambda: [call() for call in left]
    for made in (scenes.pair, scenes.prostates):
        made.cache_clear()


def test_the_pair_lies_in_a_folder_for_as_long_as_the_process(at_exit: Callable[[], None]) -> None:
    files = scenes.pair()
    assert files is scenes.pair()
    brains = scenes.brains()
    for image, labels in ((files.fixed, files.fixed_labels), (files.moving, files.moving_labels)):
        volume = read_image(image)
        torch.testing.assert_close(volume.data, brains[image.name.removesuffix(".nii.gz")])
        assert read_labels(labels, volume).data.unique().tolist() == [0, 1, 2, 3, 4]
    at_exit()
    assert not files.fixed.parent.exists()


def test_slices_are_of_the_middle() -> None:
    volumes, slices = scenes.brains(), scenes.slices(every=4)
    depth = volumes["fixed"].shape[2]
    for name, values in slices.items():
        assert values.shape == (len(range(round(0.3 * depth), round(0.7 * depth), 4)), 1, *volumes[name].shape[:2])
        assert torch.equal(values[1, 0], volumes[name][:, :, round(0.3 * depth) + 4])


def test_prostates_are_pairs_to_train_on(at_exit: Callable[[], None]) -> None:
    folder: Path = scenes.prostates()
    pairs = find_pairs(folder, hold_out=2)
    assert (len(pairs.training), len(pairs.validation)) == (2, 2)
    image = read_image(folder / "mr_images" / "case0.nii.gz")
    masks = read_masks(folder / "mr_labels" / "case0.nii.gz", image)
    assert [*masks] == [0, 1]
    assert (masks[0] & masks[1]).sum() == masks[1].sum() > 0
    at_exit()
    assert not folder.exists()
