"""Information at every translation at once, against counting it at one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi
from scipy.fft import next_fast_len

from l2rfast.methods.translations import BINS, Placed, compared, quick

SIZE = (24, 20, 16)  # cells are voxels: as many as there are cells along the longest side


def smooth(size: tuple[int, ...], seed: int) -> np.ndarray:
    noise = ndi.gaussian_filter(np.random.default_rng(seed).standard_normal(size), 2)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def placed(image: np.ndarray, *origin: float) -> Placed:
    affine = torch.eye(image.ndim + 1, dtype=torch.float64)
    affine[:-1, -1] = torch.tensor(origin)
    return Placed(torch.from_numpy(np.ascontiguousarray(image))[None, None], affine)


def counted(a: np.ndarray, b: np.ndarray) -> float:
    """Places times mutual information, in nats, by the entropies of a histogram."""
    joint = np.histogram2d(a.ravel(), b.ravel(), BINS, [(0, 1), (0, 1)])[0]

    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    p = joint / joint.sum()
    return a.size * (entropy(p.sum(0)) + entropy(p.sum(1)) - entropy(p))


def test_information_is_that_of_the_histogram_where_they_overlap() -> None:
    fixed, moving = smooth(SIZE, 0), 1 - smooth(SIZE, 0) ** 2  # another contrast
    moving[:, :, :6] = smooth(SIZE, 1)[:, :, :6]
    found = compared([placed(fixed, 5, 5, 5), placed(moving, 2, 9, 4)], torch.eye(3).double(), 2)
    assert found.spacing == 1
    assert found.best[0].by.tolist() == [-3, 4, -1]
    assert found.best[0].information == pytest.approx(counted(fixed, moving), rel=1e-3)
    assert found.best[0].told == pytest.approx(counted(fixed, moving) / fixed.size, rel=1e-3)
    # Where nothing is translated, voxel (i, j, k) of fixed lies on (i + 3, j - 4, k + 1) of moving.
    assert found.still == pytest.approx(counted(fixed[:-3, 4:, :-1], moving[3:, :-4, 1:]), rel=1e-3)
    assert found.best[1].information < found.best[0].information


def test_a_part_is_found_in_the_whole_however_far_away() -> None:
    whole = smooth((24, 40), 2)
    part, away = whole[:, 12:22], (500.0, -300.0)
    found = compared([placed(part, *away), placed(whole, 0, 0)], torch.eye(2).double())
    assert found.still == 0
    np.testing.assert_allclose(found.best[0].by, [-500, 312], atol=found.spacing / 2)
    back = compared([placed(whole, 0, 0), placed(part, *away)], torch.eye(2).double())
    np.testing.assert_allclose(back.best[0].by, [500, -312], atol=back.spacing / 2)


def test_the_axes_may_be_turned() -> None:
    image = smooth((24, 24), 3)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]]).double()
    images = [placed(image, 0, 0), placed(image, 0, 0)]
    for (_, affine, _), at in zip(images, ([0.0, 0.0], [3.0, 5.0]), strict=True):
        affine[:2, :2], affine[:2, 2] = turn, turn @ torch.tensor(at).double()
    np.testing.assert_allclose(compared(images, turn).best[0].by, [3, 5], atol=1e-5)


def test_of_a_constant_image_nothing_is_told() -> None:
    images = [placed(smooth(SIZE, 0), 0, 0, 0), placed(np.zeros(SIZE, np.float32), 0, 0, 0)]
    found = compared(images, torch.eye(3).double())
    assert all(translation.told < 1e-3 for translation in found.best)


def test_sizes_of_transforms_are_those_of_scipy() -> None:
    sizes = range(1, 3000)
    assert [quick(size) for size in sizes] == [next_fast_len(size, real=True) for size in sizes]
