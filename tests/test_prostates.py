"""The generated pairs of MR and ultrasound of a prostate."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

import l2rfast
from l2rfast.data.prostates import SIZES, prostates, write_prostates
from l2rfast.io import read_image, read_masks
from l2rfast.methods.training.cases import find_pairs


def test_a_pair_is_two_images_of_one_gland() -> None:
    """Both glands are whole and of the shape of the other, landmarks lie in them, images are from 0 to 1."""
    for pair in prostates(4):
        assert pair.fixed.shape == SIZES["fixed"]
        assert pair.moving.shape == SIZES["moving"]
        assert pair.fixed_labels.shape[3:] == pair.moving_labels.shape[3:]
        for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
            assert image.dtype == torch.float32
            assert 0 <= image.min() < 0.1 < 0.9 < image.max() <= 1
            assert image[labels[..., 0]].std() > 0.01
            assert 0.015 < labels[..., 0].float().mean() < 0.5
            places = [mask.nonzero().double() for mask in labels.unbind(-1)]
            for landmark in places[1:]:
                off = (landmark.mean(0) - places[0].mean(0)) / places[0].std(0)
                assert 20 <= len(landmark) < 200
                assert off.abs().max() < 3


def test_the_seed_gives_the_pairs() -> None:
    first, again, other = next(prostates(2, seed=1)), next(prostates(1, seed=1)), next(prostates(1, seed=2))
    assert torch.equal(first.fixed, again.fixed)
    assert torch.equal(first.moving_labels, again.moving_labels)
    assert not torch.equal(first.fixed, other.fixed)
    second = next(islice(prostates(2, seed=1), 1, 2))
    assert not torch.equal(first.moving, second.moving)


def test_they_are_written_as_training_reads_them(tmp_path: Path) -> None:
    write_prostates(tmp_path, 3, first=1)
    pairs = find_pairs(tmp_path, hold_out=1)
    assert [pair.fixed.name for pair in (*pairs.training, *pairs.validation)] == ["case000001", "case000002"]
    pair = list(prostates(3))[2]
    case = pairs.validation[0].moving
    image = read_image(case.image)
    assert torch.equal(image.data, (255 * pair.moving).round())
    assert case.labels is not None
    masks = read_masks(case.labels, image)
    assert [int(mask.sum()) for mask in masks.values()] == pair.moving_labels.flatten(0, 2).sum(0).tolist()


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(l2rfast.InputError, match="count: expected"):
        prostates(0)
    with pytest.raises(l2rfast.InputError, match="seed: expected"):
        prostates(1, seed=-1)
    with pytest.raises(l2rfast.InputError, match="first: expected"):
        write_prostates(tmp_path, 2, first=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(l2rfast.InputError, match="folder: expected one that can be written"):
        write_prostates(tmp_path / "file", 1)
