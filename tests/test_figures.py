"""Rows of pictures: what is drawn where, of tensors of every shape that an operation returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from l2rfast import InputError
from l2rfast.figures import show, show_file


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    yield
    plt.close("all")


def panels() -> list[Axes]:
    return [ax for ax in plt.gcf().axes if ax.get_visible()]


def drawn(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def lines(ax: Axes) -> list[np.ndarray]:
    (grid,) = (c for c in ax.collections if isinstance(c, LineCollection))
    return [path.vertices for path in grid.get_paths()]


def test_axis_0_runs_to_the_right() -> None:
    image = torch.rand(12, 20)
    show({"a": image, "b": image[None, None]}, {"c": image})
    assert [ax.get_title() for ax in panels()] == ["a", "b", "c"]
    for ax in panels():
        np.testing.assert_array_equal(drawn(ax), image.numpy().T)


@pytest.mark.parametrize("lead", [(), (1,), (1, 1)])
def test_a_volume_is_cut(lead: tuple[int, ...]) -> None:
    volume = torch.rand(8, 9, 10)
    show({"middle": volume.view(*lead, *volume.shape)})
    np.testing.assert_array_equal(drawn(panels()[0]), volume[:, :, 5].numpy().T)
    show({"elsewhere": volume.view(*lead, *volume.shape)}, axis=0, at=2)
    np.testing.assert_array_equal(drawn(panels()[0]), volume[2].numpy().T)


def test_a_field_is_a_grid_at_the_places_it_looks_at() -> None:
    field = torch.zeros(1, 2, 24, 24)
    field[:, 0], field[:, 1] = 3, -2
    show({"grid": field})
    first = lines(panels()[0])[0]  # of axis 0 at 0
    np.testing.assert_allclose(first, [[3, k - 2] for k in range(24)])


def test_of_a_field_in_space_what_lies_in_the_slice() -> None:
    field = torch.zeros(1, 3, 24, 24, 24)
    field[:, 0], field[:, 1], field[:, 2] = 1, 2, 3
    show({"grid": field}, axis=1)
    np.testing.assert_allclose(lines(panels()[0])[0][0], [1, 3])


def test_signed_panels_share_one_scale_around_0() -> None:
    a, b = torch.linspace(-1, 2, 16).view(4, 4), torch.linspace(-3, 1, 16).view(4, 4)
    show({"a": a, "b": b, "image": a}, signed=["a", "b"])
    assert [ax.images[0].get_clim() for ax in panels()[:2]] == [(-3, 3)] * 2
    assert panels()[2].images[0].get_clim()[0] == -1


def test_labels_below_are_coloured_and_on_top_outlined() -> None:
    labels = torch.zeros(8, 8, dtype=torch.uint8)
    labels[2:6, 2:6] = 7
    show({"below": labels, "on top": (torch.rand(8, 8), labels)})
    below, on_top = panels()
    colours = drawn(below)
    assert (colours[0, 0] == 0).all()
    assert (colours[3, 3] > 0).any()
    assert len(on_top.images) == 1
    assert len(on_top.collections) == 1


def test_what_is_true_is_marked_alone() -> None:
    folds = torch.zeros(1, 6, 6, dtype=torch.bool)
    folds[0, 1, 4] = True
    show({"folds": (torch.zeros(1, 2, 6, 6), folds)})
    marks = panels()[0].images[0].get_array()
    assert isinstance(marks, np.ma.MaskedArray)
    assert np.argwhere(~np.ma.getmaskarray(marks)).tolist() == [[4, 1]]


@pytest.mark.parametrize("wrong", [torch.rand(5), torch.rand(1, 4, 4, 4, 4), torch.rand(2, 2, 4, 4)])
def test_other_shapes_are_refused(wrong: Tensor) -> None:
    with pytest.raises(InputError, match=r"^it: expected a tensor of shape .*, got \("):
        show({"it": wrong})


def test_a_file_is_drawn_as_wide_as_a_page(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((20, 44, 3)).astype(np.float32)
    plt.imsave(tmp_path / "a.png", pixels)
    show_file(tmp_path / "a.png")
    assert plt.gcf().get_size_inches().tolist() == [11, 5]
    np.testing.assert_allclose(drawn(panels()[0])[..., :3], pixels, atol=1 / 255)
