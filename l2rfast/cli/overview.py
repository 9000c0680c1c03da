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
from matplotlib.transforms import Bbox, TransformedBbox
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
    columns = [*_COLUMNS]
    if entropy is not None:
        columns.append(f"entropy, up to {float(entropy.max()):.2g} nats")
    inches = _WIDTH / len(columns) / max(extent[horizontal] for horizontal, _ in planes)  # per mm
    height = float(np.clip(sum(heights) * inches, 5, 16)) + 1
    figure = Figure(figsize=(_WIDTH, height), dpi=100, facecolor=_BACKGROUND)
    grid = figure.add_gridspec(len(planes), len(columns), height_ratios=heights, wspace=0.03, hspace=0.03)
    grid.update(left=0.02, right=0.995, top=1 - 0.45 / height, bottom=0.55 / height)
    # One for all panels: one for each takes twice as long to make and to draw.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height), frame_on=False, xticks=[], yticks=[])
    cells = [[grid[row, column].get_position(figure) for column in range(len(columns))] for row in range(len(planes))]

    for axis, (plane, row) in enumerate(zip(planes, cells, strict=True), 3 - len(planes)):
        middle = shape[axis] // 2
        size, mm = [shape[k] for k in plane], [spacing[k] for k in plane]
        down = affine is not None and _runs_down(affine[:3, plane[1]])
        panels = [Panel(axes, cell, size, mm, down) for cell in row]
        a, b, c = (
            np.clip((np.take(volume, middle, axis) - low) / max(high - low, _TINY), 0, 1)
            for volume, (low, high) in zip(volumes, windows, strict=True)
        )
        for panel, pixels in zip(panels[:3], (a, b, c), strict=True):
            panel.show(pixels)
        if labels is not None:
            panels[0].draw_contours(np.take(labels.cpu().reshape(shape).numpy(), middle, axis))
        for panel, pixels in zip(panels[3:5], (a - b, a - c), strict=True):
            panel.show(pixels, _DIFFERENCE, low=-1)
        panels[5].show(0.45 * a)
        panels[5].draw_grid(np.take(field[list(plane)], middle, axis + 1), max(extent) / _LINES)
        panels[5].mark(np.argwhere(np.take(folded, middle, axis)))
        if entropy is not None:
            uncertain = entropy.detach().cpu().reshape(shape).numpy()
            panels[6].show(np.take(uncertain, middle, axis) / max(uncertain.max(), _TINY), "inferno")
        label = f"axis {axis}, slice {middle}"
        figure.text(0.01, (row[0].y0 + row[0].y1) / 2, label, rotation=90, ha="center", va="center", **_LABEL)

    if count := int(folded.sum()):
        columns[5] += f", {count} folded voxel{'s' if count > 1 else ''}"
    for number, (cell, title) in enumerate(zip(cells[0], columns, strict=True)):
        colour = _FOLD if count and number == 5 else _TEXT
        figure.text((cell.x0 + cell.x1) / 2, cell.y1 + 0.1 / height, title, color=colour, fontsize=14, ha="center")
    _draw_scale(figure, cells[-1][3].x0, cells[-1][4].x1, height)
    figure.savefig(path, format="png", pil_kwargs={"compress_level": 3})  # half of the time of 6, for a little more


class Panel:
    """A slice in a part of a picture, in its middle and as large as fits.

    Args:
        axes: of the whole picture, in inches.
        cell: the part, in shares of the picture.
        size: pixels along the two axes of the slice, the second of which runs up.
        mm: of a pixel along each.
        down: the second runs down instead.
    """

    def __init__(self, axes: Axes, cell: Bbox, size: Sequence[int], mm: Sequence[float], down: bool) -> None:
        self.axes, self.mm = axes, mm
        whole = np.array([axes.get_xlim()[1], axes.get_ylim()[1]])
        lengths = np.multiply(size, mm)
        sides = lengths * (np.array(cell.size) * whole / lengths).min()
        first = (np.add(cell.min, cell.max) * whole - sides) / 2
        self.box = Bbox([first, first + sides])
        if down:
            first[1], sides[1] = first[1] + sides[1], -sides[1]
        self.first, self.step = first, sides / size

    def at(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in pixels, whose centres are whole numbers: in inches."""
        inches: np.ndarray = self.first + (points + 0.5) * self.step
        return inches

    def show(self, pixels: np.ndarray, cmap: Colormap | str = "gray", low: float = 0) -> None:
        ends = np.stack([self.first, self.first + self.step * pixels.shape], 1).ravel()
        left, right, bottom, top = ends.tolist()
        extent = (left, right, bottom, top)
        self.axes.imshow(pixels.T, cmap=cmap, vmin=low, vmax=1, origin="lower", aspect="auto", extent=extent)

    def draw_grid(self, disp: np.ndarray, distance: float) -> None:
        """Lines of the regular grid, `distance` mm apart, where a (2, H, W) field takes them."""
        points = self.at(np.moveaxis(np.indices(disp.shape[1:]) + disp, 0, -1))
        across, along = (max(1, round(distance / spacing)) for spacing in self.mm)
        lines = [*points[across // 2 :: across], *points[:, along // 2 :: along].swapaxes(0, 1)]
        drawn = LineCollection(lines, colors=_GRID, linewidths=0.7, alpha=0.9)
        self.axes.add_collection(drawn, autolim=False)
        drawn.set_clip_box(TransformedBbox(self.box, self.axes.transData))

    def draw_contours(self, labels: np.ndarray) -> None:
        across, up = (self.at(np.arange(max(labels.shape))[:, None])[:n, k] for k, n in enumerate(labels.shape))
        for label in np.unique(labels[labels > 0]):
            self.axes.contour(across, up, (labels == label).T, levels=[0.5], colors=_GRID, linewidths=0.7)

    def mark(self, points: np.ndarray) -> None:
        """Folds at points (M, 2) in pixels."""
        across, up = self.at(points).T
        self.axes.scatter(across, up, s=6, c=_FOLD, marker="s", linewidths=0)


def _known(image: Tensor) -> Tensor | None:
    """Where it is not NaN; None where that is everywhere."""
    known = ~image.isnan()
    return None if known.all() else known


def _runs_down(axis: np.ndarray) -> bool:
    """Whether it goes to posterior or inferior, most of all."""
    nearest = np.abs(axis).argmax()
    return bool(nearest > 0 and axis[nearest] < 0)


def _draw_scale(figure: Figure, left: float, right: float, height: float) -> None:
    """The colours of the differences, below their two columns."""
    middle, half = (left + right) / 2, (right - left) / 4
    bar = figure.add_axes((middle - half, 0.33 / height, 2 * half, 0.1 / height))
    scale = ScalarMappable(Normalize(-1, 1), _DIFFERENCE)
    figure.colorbar(scale, cax=bar, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_xticklabels(["moving brighter", "equal", "fixed brighter"], **_LABEL)
    bar.tick_params(length=0)
    bar.spines[:].set_visible(False)
