"""What images are compared by while a field is refined: the distance over what counts, and its slope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from l2rfast.losses import mutual_information
from l2rfast.methods.similarity import (
    SLOPE,
    Distance,
    Weight,
    lncc_distance,
    mi_distance,
    mind_distance,
    ssd_distance,
)

SIZE = (14, 15, 13)
DISTANCES: dict[str, Callable[[Tensor, Tensor, Weight], Distance]] = {
    "lncc": lambda fixed, moving, weight: lncc_distance(fixed, moving, weight, [5, 5, 5]),
    "mind": mind_distance,
    "ssd": ssd_distance,
    "mi": mi_distance,
}


def smooth(channels: int, seed: int) -> Tensor:
    """(1, channels, *SIZE) of unit variance."""
    noise = np.random.default_rng(seed).standard_normal((channels, *SIZE))
    values = scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 2))
    return torch.from_numpy(values / values.std())[None]


def half() -> Tensor:
    weight = torch.zeros(1, 1, *SIZE, dtype=torch.float64)
    weight[..., 4:, :, :] = 1
    return weight


@pytest.mark.parametrize("name", ["lncc", "mind"])
@pytest.mark.parametrize("own", [None, half()], ids=["all", "half"])
def test_the_gradient_is_of_the_distance(name: str, own: Tensor | None) -> None:
    """By central differences along a direction, of the distance times the share of the voxels that count."""
    distance = DISTANCES[name](smooth(1, 0), smooth(1, 1), Weight(own))
    field, along = 0.3 * smooth(3, 2), smooth(3, 3)
    loss, gradient = distance(field)
    assert loss.shape == ()
    assert gradient.shape == field.shape
    step = 1e-6
    rise = (distance(field + step * along)[0] - distance(field - step * along)[0]) / (2 * step)
    share = 1.0 if own is None else float(own.mean())
    torch.testing.assert_close((gradient * along).sum(), share * rise, rtol=1e-4, atol=0)
    if own is not None:
        assert gradient[..., 0, :, :].abs().max() == 0


@pytest.mark.parametrize("own", [None, half()], ids=["all", "half"])
def test_the_gradient_to_steps_on_blocks(own: Tensor | None) -> None:
    """Their means, of windows of whole blocks: as above, along a step of each block."""
    blocks = [2, 3, 2]
    distance = lncc_distance(smooth(1, 0), smooth(1, 1), Weight(own), [6, 9, 6], blocks)
    field, step = 0.3 * smooth(3, 2), smooth(3, 3)[..., :7, :5, :6]
    along = torch.zeros_like(field)
    along[..., :14, :15, :12] = step.repeat_interleave(2, 2).repeat_interleave(3, 3).repeat_interleave(2, 4)
    _, gradient = distance(field)
    assert gradient.shape == step.shape
    h = 1e-6
    rise = (distance(field + h * along)[0] - distance(field - h * along)[0]) / (2 * h)
    share = 1.0 if own is None else float(own.mean())
    torch.testing.assert_close(12 * (gradient * step).sum(), share * rise, rtol=1e-4, atol=0)


def test_the_distance_is_a_mean_over_what_counts() -> None:
    """Of squares that SciPy's linear interpolation has, where both sides count."""
    fixed, moving, field = smooth(2, 0), smooth(2, 1), 0.5 * smooth(3, 2)
    other = smooth(1, 5).sigmoid()
    places = np.stack(np.indices(SIZE)) + field[0].numpy()

    def warped(image: Tensor) -> np.ndarray:
        return np.stack([scipy.ndimage.map_coordinates(x, places, order=1, mode="nearest") for x in image[0].numpy()])

    counts = half()[0].numpy() * warped(other)
    squares = np.square(warped(moving) - fixed[0].numpy()).sum(0, keepdims=True)
    loss, _ = mind_distance(fixed, moving, Weight(half(), other))(field)
    assert float(loss) == pytest.approx((squares * counts).sum() / counts.sum(), rel=1e-5)
    nothing, gradient = mind_distance(fixed, moving, Weight(torch.zeros_like(half())))(field)
    assert float(nothing) == float(gradient.abs().max()) == 0


@pytest.mark.parametrize(("name", "scale"), [("lncc", 1.0), ("ssd", 1.0), ("ssd", 1e-3), ("mi", 1.0), ("mi", 1e-3)])
def test_the_slope_is_of_what_is_left(name: str, scale: float) -> None:
    """Of a texture that lies off by a voxel, about what the refinement takes it for, at any scale, less where it is
    flat; next to none where it lies as it should."""
    image = smooth(1, 4) * scale
    distance = DISTANCES[name](image, image.roll(1, 2), Weight())
    middle = (0, slice(None), *[slice(4, -4)] * 3)
    voxels = image[0, 0].numel()

    def slope(shift: float) -> Tensor:
        field = torch.zeros(1, 3, *SIZE, dtype=torch.float64)
        field[:, 0] = shift
        return distance(field)[1][middle] * voxels

    left, right, still = (slope(shift) for shift in (0.0, 2.0, 1.0))
    assert -SLOPE < left[0].mean() < -SLOPE / 5
    assert SLOPE / 5 < right[0].mean() < SLOPE
    assert still.abs().mean() < 0.15 * left.abs().mean()


def test_squares_are_over_the_steepness_of_fixed() -> None:
    """A ramp of slope 2 that lies off by half a voxel: half a voxel times what a voxel is worth, everywhere."""
    ramp = 2 * torch.arange(80.0)[:, None].expand(80, 9)[None, None].contiguous()
    loss, gradient = ssd_distance(ramp, ramp, Weight())(0.5 * torch.ones(1, 2, 80, 9))
    inside = gradient[0, :, 40, 4] * 80 * 9  # where nothing of the border is averaged
    # The steepness is 4, and a tenth of that is added: of what is usual, which the border hardly lowers.
    torch.testing.assert_close(inside, torch.tensor([0.5 * SLOPE / 1.1, 0.0]), rtol=0.02, atol=1e-6)
    assert float(loss) == pytest.approx(79 / 80, rel=1e-5)  # the last row has no more to go


def test_mutual_information_is_that_of_the_losses() -> None:
    image = smooth(1, 6).sigmoid()
    other = (1 - image) ** 2
    assert float(mi_distance(image, other, Weight())(torch.zeros(1, 3, *SIZE, dtype=torch.float64))[0]) < -1.2
    for own in (None, half()):
        loss, _ = mi_distance(image, other, Weight(own))(torch.zeros(1, 3, *SIZE, dtype=torch.float64))
        scaled = []
        for x in (image, other):
            ordered = x.flatten().sort().values
            scaled.append(((x - ordered[3]) / (ordered[-4] - ordered[3])).clamp(0, 1))
        expected = -mutual_information(*scaled, weight=None if own is None else own)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_flat_images_give_no_slope(name: str) -> None:
    flat = torch.zeros(1, 1, *SIZE, dtype=torch.float64)
    loss, gradient = DISTANCES[name](flat, flat, Weight())(0.3 * smooth(3, 2))
    assert torch.isfinite(loss)
    assert gradient.abs().max() == 0
