"""One picture that shows whether a registration worked: three planes, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from ..methods.intensities import robust_range

_BACKGROUND, _TEXT, _GRID, _FOLD = "#0b0e14", "#aab4c4", "#5fd3bc", "#ff2d3f"
_DIFFERENCE = LinearSegmentedColormap.from_list(
    "difference", ["#c6ecff", "#3fa7f0", "#164a80", _BACKGROUND, "#8a3a10", "#f58a35", "#ffe3c2"]
)
_LABEL: dict[str, Any] = {"color": _TEXT, "fontsize": 12}
_COLUMNS = ["fixed", "moving", "warped", "difference before", "difference after", "deformation"]
_WIDTH = 22.0  # inches, of 100 pixels
_LINES = 32  # of the deformation grid, along the longest axis
_TINY = float(np.finfo(np.float32).tiny)  # the range of a moving image that misses the fixed grid


def draw_overview(
    path: str | Path,
    fixed: Tensor,
    moving: Tensor,
    warped: Tensor,
    disp: Tensor,
    folds: Tensor,
    spacing: Sequence[float],
    labels: Tensor | None = None,
    entropy: Tensor | None = None,
    affine: np.ndarray | None = None,
) -> None:
    """Draw the middle slices of a registration, or its only one, to a PNG, 2200 pixels wide.

    Args:
        path: of the PNG.
        fixed, moving, warped: ([1, 1,] [D,] H, W), all on the fixed grid; what is NaN is not drawn.
        disp: ([1,] ndim, [D,] H, W), in voxels.
        folds: ([D,] H, W), boolean, true where the deformation folds.
        spacing: of the voxels along each axis, in mm.
        labels: ([D,] H, W), the warped labels of moving, whose contours are drawn on the fixed image.
        entropy: ([1, 1,] [D,] H, W), of the displacements, in nats: another column, black where it is 0.
        affine: (4, 4) of the grid, voxel -> RAS millimetres: what is posterior or inferior, and the last row of a
            picture, is then drawn below; else the first voxel of each axis is.

    Fixed and moving are windowed to their own `methods.intensities.robust_range`, warped as moving is; the differences
    are of the windowed images and share one scale. The grid is drawn at ``x + disp(x)``, within the plane.

    Raises:
        OSError: the file cannot be written.
    """
    ndim = folds.ndim
    shape, spacing = (*folds.shape, 1)[:3], (*spacing, 1.0)[:3]  # what is 2-D as one slice
    volumes = [image.detach().cpu().reshape(shape).numpy() for image in (fixed, moving, warped)]
    window, window_of_moving = (robust_range(image, _known(image)) for image in (fixed, moving))
    windows = [window, window_of_moving, window_of_moving]
    field = disp.detach().cpu().reshape(ndim, *shape).numpy()
    folded = folds.cpu().reshape(shape).numpy()

    extent = [n * mm for n, mm in zip(shape, spacing, strict=True)]
    planes = [(1, 2), (0, 2), (0, 1)]  # the horizontal and the vertical axis of each view
    planes = planes if ndim == 3 else planes[2:]
    heights = [extent[vertical] for _, vertical in planes]
    columns = _COLUMNS if entropy is None else [*_COLUMNS, f"entropy, up to {float(entropy.max()):.2g} nats"]
    inches = _WIDTH / len(columns) / max(extent[horizontal] for horizontal, _ in planes)  # per mm
    height = float(np.clip(sum(heights) * inches, 5, 16)) + 1
    figure = Figure(figsize=(_WIDTH, height), dpi=100, facecolor=_BACKGROUND)
    grid = figure.add_gridspec(len(planes), len(columns), height_ratios=heights, wspace=0.03, hspace=0.03)
    grid.update(left=0.02, right=0.995, top=1 - 0.45 / height, bottom=0.55 / height)
    panels: Any = grid.subplots(squeeze=False)

    for axis, (plane, row) in enumerate(zip(planes, panels, strict=True), 3 - len(planes)):
        middle = shape[axis] // 2
        mm = [spacing[k] for k in plane]
        a, b, c = (
            np.clip((np.take(volume, middle, axis) - low) / max(high - low, _TINY), 0, 1)
            for volume, (low, high) in zip(volumes, windows, strict=True)
        )
        for panel, pixels in zip(row[:3], (a, b, c), strict=True):
            _show(panel, pixels, mm)
        if labels is not None:
            _draw_contours(row[0], np.take(labels.cpu().reshape(shape).numpy(), middle, axis))
        for panel, pixels in zip(row[3:5], (a - b, a - c), strict=True):
            _show(panel, pixels, mm, _DIFFERENCE, low=-1)
        _show(row[5], 0.45 * a, mm)
        _draw_grid(row[5], np.take(field[list(plane)], middle, axis + 1), mm, max(extent) / _LINES)
        if entropy is not None:
            uncertain = entropy.detach().cpu().reshape(shape).numpy()
            _show(row[6], np.take(uncertain, middle, axis) / max(uncertain.max(), _TINY), mm, "inferno")
        row[5].scatter(*np.nonzero(np.take(folded, middle, axis)), s=6, c=_FOLD, marker="s", linewidths=0)
        if affine is not None and _runs_down(affine[:3, plane[1]]):
            for panel in row:
                panel.invert_yaxis()
        box = row[0].get_position()
        label = f"axis {axis}, slice {middle}"
        figure.text(0.01, (box.y0 + box.y1) / 2, label, rotation=90, ha="center", va="center", **_LABEL)

    for panel, title in zip(panels[0], columns, strict=True):
        panel.set_title(title, color=_TEXT, fontsize=14, pad=8)
    if count := int(folded.sum()):
        title = f"{_COLUMNS[5]}, {count} folded voxel{'s' if count > 1 else ''}"
        panels[0, 5].set_title(title, color=_FOLD, fontsize=14, pad=8)
    _draw_scale(figure, panels[-1, 3].get_position().x0, panels[-1, 4].get_position().x1, height)
    figure.savefig(path, format="png", pil_kwargs={"compress_level": 3})  # half of the time of 6, for a little more


def _known(image: Tensor) -> Tensor | None:
    """Where it is not NaN; None where that is everywhere."""
    known = ~image.isnan()
    return None if known.all() else known


def _runs_down(axis: np.ndarray) -> bool:
    """Whether it goes to posterior or inferior, most of all."""
    nearest = np.abs(axis).argmax()
    return bool(nearest > 0 and axis[nearest] < 0)


def _show(panel: Axes, pixels: np.ndarray, mm: list[float], cmap: Colormap | str = "gray", low: float = 0) -> None:
    panel.imshow(pixels.T, cmap=cmap, vmin=low, vmax=1, origin="lower", aspect=mm[1] / mm[0])
    panel.autoscale(False)
    panel.set(xticks=[], yticks=[], facecolor=_BACKGROUND)
    panel.spines[:].set_visible(False)


def _draw_grid(panel: Axes, disp: np.ndarray, mm: list[float], distance: float) -> None:
    """Lines of the regular grid, `distance` mm apart, where a (2, H, W) field takes them."""
    points = np.moveaxis(np.indices(disp.shape[1:]) + disp, 0, -1)
    across, along = (max(1, round(distance / spacing)) for spacing in mm)
    lines = [*points[across // 2 :: across], *points[:, along // 2 :: along].swapaxes(0, 1)]
    panel.add_collection(LineCollection(lines, colors=_GRID, linewidths=0.7, alpha=0.9), autolim=False)


def _draw_contours(panel: Axes, labels: np.ndarray) -> None:
    for label in np.unique(labels[labels > 0]):
        panel.contour((labels == label).T, levels=[0.5], colors=_GRID, linewidths=0.7)


def _draw_scale(figure: Figure, left: float, right: float, height: float) -> None:
    """The colours of the differences, below their two columns."""
    middle, half = (left + right) / 2, (right - left) / 4
    bar = figure.add_axes((middle - half, 0.33 / height, 2 * half, 0.1 / height))
    scale = ScalarMappable(Normalize(-1, 1), _DIFFERENCE)
    figure.colorbar(scale, cax=bar, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_xticklabels(["moving brighter", "equal", "fixed brighter"], **_LABEL)
    bar.tick_params(length=0)
    bar.spines[:].set_visible(False)
