"""Alignment by maps of the first label, of each image alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import l2rfast
from l2rfast import losses
from l2rfast.errors import InputWarning
from l2rfast.methods.weakly_supervised import Architecture, LabelReg, MomentsNet, Plan
from l2rfast.methods.weakly_supervised.nets import affine_field


@pytest.mark.parametrize("size", [(40, 36), (24, 30, 28)])
def test_moments_align_a_box_with_another(size: tuple[int, ...]) -> None:
    """Whose maps are certain: it comes to lie on the other, moved, and stretched along each axis as boxes before."""
    boxes = [torch.zeros(1, 1, *size) for _ in range(2)]
    boxes[0][(..., *[slice(4 + k, 14 + 2 * k) for k in range(len(size))])] = 1
    boxes[1][(..., *[slice(9, 16) for _ in size])] = 1
    network = MomentsNet(Plan(len(size), 4))
    network.observe(*(box.expand(3, -1, *size) for box in boxes))
    field = affine_field(network.matrix(*(40 * box - 20 for box in boxes)), size)
    warped = l2rfast.warp(boxes[0], field)
    assert losses.dice(boxes[1], (warped >= 0.5).float()).item() < 0.12
    assert losses.dice(boxes[1], boxes[0]).item() > 0.4
    matrix_free = field - field.flatten(2).mean(2).view(1, -1, *[1] * len(size))
    assert losses.bending_energy(matrix_free).item() < 1e-8


@pytest.mark.parametrize("level", [2, 4])
def test_moments_of_a_lower_resolution_align_to_the_border(level: int) -> None:
    """Of blocks of one size the field is a shift, the same everywhere."""
    maps = [torch.full((1, 1, 10, 9), -20.0) for _ in range(2)]
    maps[0][..., 2:5, 3:6], maps[1][..., 5:8, 4:7] = 20, 20
    size = (10 * level + level - 1, 9 * level)  # what fills no block is not seen
    field = LabelReg(Architecture("moments", Plan(2, 4), level=level)).aligned((maps[0], maps[1]), size)
    expected = torch.tensor([-3.0, -1.0]).view(1, 2, 1, 1) * level
    torch.testing.assert_close(field, expected.expand(1, 2, *size), atol=1e-3, rtol=0)


def test_what_was_seen_of_labels_is_their_mean_and_variance() -> None:
    """Of boxes in pairs, whatever the batches; the empty ones do not count."""
    random, network = torch.Generator().manual_seed(0), MomentsNet(Plan(2, 4))
    expected = []
    for batch in (1, 3, 2):
        labels = torch.zeros(2, batch, 1, 30, 26)
        for k in range(batch):
            (y, x), sides = torch.randint(9, (2,), generator=random), torch.randint(4, 12, (2, 2), generator=random)
            for label, (high, wide) in zip(labels[:, k, 0], sides.tolist(), strict=True):
                label[y : y + high, x : x + wide] = 1
            large, small = ((side.double().square() - 1) / 12 for side in sides)  # variances of the voxels' places
            at = torch.stack([y, x]) + (sides[1] - 1) / 2 - torch.tensor([14.5, 12.5])
            expected.append(torch.stack([at, (large / small).log() / 2]))
        network.observe(*labels)
        network.observe(torch.zeros(1, 1, 30, 26), labels[1, :1])
    seen = torch.stack(expected)
    assert network.count == 6
    torch.testing.assert_close(network.mean, seen.mean(0).float(), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(network.deviations / 5, seen.var(0).float(), rtol=1e-2, atol=1e-3)


def _boxes(*slices: tuple[slice, ...], size: tuple[int, ...] = (48, 44)) -> torch.Tensor:
    """(N, 1, *size): of each slices ones."""
    boxes = torch.zeros(len(slices), 1, *size)
    for box, where in zip(boxes, slices, strict=True):
        box[(0, *where)] = 1
    return boxes


def test_sizes_are_what_both_maps_say_within_what_is_usual() -> None:
    """Of pairs whose sizes along one axis vary, and along the other one do not."""
    network = MomentsNet(Plan(2, 4))
    fixed = _boxes(*[(slice(12, 32), slice(10, 30))] * 3)
    network.observe(_boxes(*[(slice(22 - half, 22 + half), slice(10, 30)) for half in (7, 10, 14)]), fixed)
    moving = _boxes((slice(14, 34), slice(12, 32)))
    seen = _boxes((slice(14, 30), slice(12, 28)))  # 16 voxels along both axes
    matrix = network.matrix(40 * moving - 20, 40 * seen - 20)[0]
    assert matrix[0, 0].item() == pytest.approx(20 / 16, rel=0.04)
    assert matrix[1, 1].item() == pytest.approx(1, rel=0.04)
    assert matrix[:, :2].fill_diagonal_(0).count_nonzero() == 0


def test_what_is_likeliest_does_not_depend_on_the_batch_or_the_mode() -> None:
    network = MomentsNet(Plan(2, 4))
    network.observe(
        *(_boxes(*[(slice(9, 20 + k), slice(10, 30 - k)) for k in offset]) for offset in (range(4), [0] * 4))
    )
    maps = [
        40 * _boxes((slice(14, 30), slice(12, 32)), (slice(4, 30), slice(22, 32))) - 20,
        40 * _boxes((slice(10, 25), slice(14, 30)), (slice(8, 30), slice(20, 32))) - 20,
    ]
    together = network.matrix(*maps)
    for k in range(2):
        with torch.inference_mode():
            alone = network.matrix(*(one[k : k + 1] for one in maps))
        torch.testing.assert_close(alone[0], together[k], rtol=1e-5, atol=1e-4)


def test_what_is_observed_does_not_depend_on_the_size_of_the_image_or_autocast() -> None:
    """A small label in a large image, and places that bfloat16 does not have."""
    network, narrow = MomentsNet(Plan(3, 4)), MomentsNet(Plan(3, 4))
    large = _boxes((slice(90, 95), slice(80, 84), slice(81, 87)), size=(110, 100, 105))
    small = _boxes((slice(1, 6), slice(3, 7), slice(2, 8)), size=(13, 12, 11))
    network.observe(large, small)
    torch.testing.assert_close(network.mean, torch.tensor([[-3.0, -1.0, -0.5], [0.0, 0.0, 0.0]]), atol=1e-4, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        narrow.observe(large, small)
    assert torch.equal(narrow.mean, network.mean)


def test_maps_of_16_bits_give_a_field_and_no_gradient() -> None:
    network = MomentsNet(Plan(2, 4))
    maps = [40 * box - 20 for box in _boxes(*[(slice(9 + k, 24 + k), slice(10, 30)) for k in (0, 5)])[:, None]]
    expected = network.matrix(*maps)
    for dtype in (torch.float16, torch.bfloat16):
        got = network.matrix(*(one.to(dtype) for one in maps))
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
    assert not network.matrix(*(one.requires_grad_() for one in maps)).requires_grad


def test_of_half_a_label_the_other_half_is_where_moving_says() -> None:
    """Fixed's map knows nothing of one end: centroids would be off by a quarter of the label."""
    truth = torch.full((1, 1, 40, 30), -20.0)
    truth[..., 10:30, 10:20] = 20
    half = truth.clone()
    half[..., 20:, :] = -0.5
    field = MomentsNet(Plan(2, 4)).eval().matrix(truth, half)[0]
    torch.testing.assert_close(field, torch.eye(2, 3), atol=0.3, rtol=0)


def test_a_label_lies_where_the_fixed_image_is_though_its_map_has_less_of_it() -> None:
    """More than half of it lies on what is surely none: at no place is the sum above that beyond the border, 0."""
    network = MomentsNet(Plan(2, 4))
    moving, fixed = torch.full((2, 1, 1, 30, 26), -20.0)
    moving[..., 5:20, 5:20] = 20
    fixed[..., 10:20, 8:18] = 20
    warped = l2rfast.warp((moving > 0).float(), affine_field(network.matrix(moving, fixed), (30, 26)))
    assert warped[fixed > 0].mean() == 1
    assert warped.sum() > 0.9 * (moving > 0).sum()


def test_where_a_map_says_nothing_the_usual_place_counts() -> None:
    network = MomentsNet(Plan(2, 4))
    labels = torch.zeros(4, 1, 30, 26)
    for k, label in enumerate(labels[:, 0]):
        label[8 + k : 15 + k, 4:9] = 1  # the mean: rows 9.5 to 15.5
    network.observe(labels, labels)
    moving = torch.full((1, 1, 30, 26), -20.0)
    moving[..., 20:27, 15:20] = 20
    offset = network.matrix(moving, torch.zeros(1, 1, 30, 26))[0, :, 2]
    assert offset.tolist() == pytest.approx([23 - 12.5, 17 - 6], abs=0.5)


def test_uncertain_maps_give_a_finite_field() -> None:
    maps = [torch.full((2, 1, 12, 14), value) for value in (-50.0, -3.0)]
    assert MomentsNet(Plan(2, 4)).matrix(*maps).isfinite().all()


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("network", ["moments", "local"])
def test_any_width_is_one(network: str, norm: str) -> None:
    """Also one whose channels are not so many groups."""
    for width in (1, 5, 7, 13):
        net = LabelReg(Architecture(network, Plan(2, width, norm)))
        assert net(torch.rand(1, 1, 40, 36), torch.rand(1, 1, 36, 34)).isfinite().all()


def test_an_image_in_which_nothing_is_found_is_named(tmp_path: Path) -> None:
    network = LabelReg(Architecture("moments", Plan(2, 4)))
    for part in (network.network.of_moving, network.network.of_fixed):
        torch.nn.init.constant_(part.out.bias, -100)
    network.save(tmp_path / "weights.safetensors")
    images = [torch.rand(36, 34, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    with pytest.warns(InputWarning, match="the network finds nothing in it") as caught:
        l2rfast.register(*images, method="weakly-supervised", weights=tmp_path / "weights.safetensors")
    found = [str(one.message) for one in caught if "finds nothing" in str(one.message)]
    assert [text.partition(":")[0] for text in found] == ["moving", "fixed"]


def test_images_of_fewer_voxels_than_are_averaged_are_named() -> None:
    network = LabelReg(Architecture("moments", Plan(2, 4), level=4))
    with pytest.raises(l2rfast.InputError, match=r"fixed: expected at least 4 voxels along each axis, .* got 3 x 40"):
        network(torch.rand(1, 1, 40, 40), torch.rand(1, 1, 3, 40))
