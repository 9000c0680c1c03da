"""What images are compared by while a field is refined: the distance over what counts, and its slope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from l2rfast.methods.similarity import Distance, Weight, lncc_distance, mind_distance

SIZE = (14, 15, 13)
DISTANCES: dict[str, Callable[[Tensor, Tensor, Weight], Distance]] = {
    "lncc": lambda fixed, moving, weight: lncc_distance(fixed, moving, weight, [5, 5, 5]),
    "mind": mind_distance,
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


@pytest.mark.parametrize("name", DISTANCES)
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
