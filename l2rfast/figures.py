"""Rows of pictures of images, label maps and displacement fields, for notebooks and the documentation."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, hsv_to_rgb
from torch import Tensor

from .errors import InputError

GRID, FOLD = "#2aa198", "#ff2d3f"
_LINES = 24  # of a deformation grid, along the longer axis

Layers = Tensor | Sequence[Tensor]


def show(*rows: dict[str, Layers], signed: Collection[str] = (), axis: int = -1, at: int | None = None) -> None:
    """Draw rows of panels, each below its title, as a new figure of pyplot.

    A panel is one tensor, or several drawn on top of each other. What they are is told by shape and dtype:

    - floating: an image, in grey, or from blue by white to red if its title is of `signed`;
    - integer: labels, in colours; on top of something else, their outlines;
    - boolean: marked in red, folds for instance;
    - floating, one channel per spatial axis: a displacement field in voxels, as the grid ``x + disp(x)``.

    Axis 0 runs to the right and axis 1 down; of 3-D tensors one slice is drawn, and of fields what lies in it.

    Args:
        rows: title -> ([1, 1,] [D,] H, W), or (1, ndim, [D,] H, W) of fields.
        signed: titles of panels with positive and negative values, such as differences, whose colours share one scale.
        axis: of 3-D tensors, that is cut.
        at: the slice of that axis; the middle one by default.

    Raises:
        InputError: a tensor of another shape.
    """
    import matplotlib.pyplot as plt

    cut = [
        {title: [_cut(title, layer, axis, at) for layer in _listed(layers)] for title, layers in row.items()}
        for row in rows
    ]
    panels = [layers for row in cut for layers in row.values()]
    shapes = [layers[0].shape[-2:] for layers in panels]
    scale = max((float(np.abs(layers[0]).max()) for row in cut for t, layers in row.items() if t in signed), default=1)
    columns = max(len(row) for row in cut)
    width = min(12.0, 3.0 * columns)
    height = width / columns * max(s[1] / s[0] for s in shapes) + 0.35
    _, axes = plt.subplots(len(cut), columns, figsize=(width, height * len(cut)), squeeze=False, layout="constrained")
    for places, row in zip(axes, cut, strict=True):
        for ax in places[len(row) :]:
            ax.set_visible(False)
        for ax, (title, layers) in zip(places, row.items(), strict=False):
            ax.set(title=title, xticks=[], yticks=[])
            for below, layer in enumerate(layers):
                _draw(ax, layer, below > 0, scale if title in signed else None)


def _listed(layers: Layers) -> Sequence[Tensor]:
    return [layers] if isinstance(layers, Tensor) else layers


def _cut(title: str, values: Tensor, axis: int, at: int | None) -> np.ndarray[Any, Any]:
    """(H, W), or (2, H, W) of a field."""
    whole = values.detach().cpu()
    while whole.ndim > 2 and len(whole) == 1:
        whole = whole[0]
    is_field = whole.ndim == values.ndim - 1 and len(whole) == whole.ndim - 1 and whole.is_floating_point()
    ndim = whole.ndim - is_field
    if ndim not in (2, 3):
        raise InputError(
            f"{title}: expected a tensor of shape ([1, 1,] [D,] H, W), or (1, ndim, [D,] H, W) of a displacement "
            f"field, got {tuple(values.shape)}"
        )
    if ndim == 3:
        axis %= 3
        cut = axis + is_field
        whole = whole.select(cut, whole.shape[cut] // 2 if at is None else at)
        if is_field:
            whole = whole[[k for k in range(3) if k != axis]]
    pixels: np.ndarray[Any, Any] = whole.numpy()
    return pixels


def _draw(ax: Axes, pixels: np.ndarray[Any, Any], on_top: bool, scale: float | None) -> None:
    if pixels.ndim == 3:
        _draw_grid(ax, pixels)
    elif pixels.dtype.kind == "b":
        marks = np.ma.masked_equal(pixels.T, False)
        ax.imshow(marks, cmap=ListedColormap([FOLD]), interpolation="nearest")
    elif pixels.dtype.kind in "iu" and on_top:
        for label in np.unique(pixels[pixels > 0]):
            ax.contour((pixels == label).T, levels=[0.5], colors=[_colour(int(label))], linewidths=0.9)
    elif pixels.dtype.kind in "iu":
        ax.imshow(_colours(pixels).swapaxes(0, 1), interpolation="nearest")
    elif scale is not None:
        ax.imshow(pixels.T, cmap="RdBu_r", vmin=-scale, vmax=scale)
    else:
        ax.imshow(pixels.T, cmap="gray", vmax=np.quantile(pixels, 0.999))  # a bright vessel darkens nothing


def _draw_grid(ax: Axes, disp: np.ndarray[Any, Any]) -> None:
    """Lines of the regular grid where a (2, H, W) field takes them."""
    size = disp.shape[1:]
    step = max(1, round(max(size) / _LINES))
    points = np.moveaxis(np.indices(size) + disp, 0, -1)
    lines = [*points[step // 2 :: step], *points[:, step // 2 :: step].swapaxes(0, 1)]
    ax.add_collection(LineCollection(lines, colors=GRID, linewidths=0.7), autolim=False)
    ax.set(xlim=(-0.5, size[0] - 0.5), ylim=(size[1] - 0.5, -0.5), aspect="equal")


def _colour(label: int) -> tuple[float, float, float]:
    """Of a label, far from that of the next; the same in every picture."""
    red, green, blue = hsv_to_rgb((label * 0.618034 % 1, 0.65, 0.95))
    return float(red), float(green), float(blue)


def _colours(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(H, W, 3); the background is black."""
    found, index = np.unique(labels, return_inverse=True)
    table = np.array([_colour(int(x)) if x else (0.0, 0.0, 0.0) for x in found])
    pixels: np.ndarray[Any, Any] = table[index.reshape(labels.shape)]
    return pixels


def show_file(path: str | os.PathLike[str]) -> None:
    """Draw a picture of a file, such as ``overview.png``, as a new figure of pyplot, as wide as a page."""
    import matplotlib.pyplot as plt

    pixels = plt.imread(os.fspath(path))
    height, width = pixels.shape[:2]
    figure = plt.figure(figsize=(11, 11 * height / width))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(pixels, aspect="auto")
    ax.set_axis_off()
