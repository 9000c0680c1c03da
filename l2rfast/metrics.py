"""The measures of the Learn2Reg challenge (Hering et al., IEEE TMI 2023), for one pair or a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from . import _check
from .errors import InputError
from .fields import digital_jacobian, jacobian_determinant
from .kernels.common.constants import numbers
from .transforms import warp

# Label numbers below it are looked up in a table, larger ones (as in the Allen atlas) searched.
_TABLE_SIZE = 2**24
_PART = 2**16  # values that are made float64 at a time: a copy of all is twice the image, and not in the cache


def dice(a: Tensor, b: Tensor, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Overlap of each label, ``2 |A and B| / (|A| + |B|)`` (Dice, Ecology 1945).

    Args:
        a, b: label maps of one shape, any integer dtype.
        labels: which to measure; by default all of ``a`` except 0.

    Returns:
        Per label, 0 to 1; NaN where neither map has the label.

    Raises:
        InputError: shapes or dtypes that do not fit.
    """
    labels, index_a, index_b = _renumber(a, b, labels)
    count_a, count_b, both = (
        torch.bincount(torch.from_numpy(index.ravel()), minlength=len(labels) + 1).double()
        for index in (index_a, index_b, index_a[index_a == index_b])
    )
    scores = 2 * both / (count_a + count_b)
    return dict(zip(labels, scores[1:].tolist(), strict=True))


def hd95(
    a: Tensor, b: Tensor, labels: Iterable[int] | None = None, spacing: Sequence[float] = (1, 1, 1)
) -> dict[int, float]:
    """Robust Hausdorff distance of each label: the larger of the two directed 95th percentiles.

    The surface of a label is sampled where corners of voxels meet: a 2x2x2 neighbourhood (2x2 in 2-D) that
    is neither full nor empty is one element, weighted by the area of the surface inside it, as in
    DeepMind's ``surface-distance``, which Learn2Reg uses (Nikolov et al., JMIR 2021).

    Args:
        a, b: label maps of one shape, (H, W) or (D, H, W), any integer dtype.
        labels: which to measure; by default all of ``a`` except 0.
        spacing: of the voxels along each axis, in mm.

    Returns:
        Per label, in mm; NaN where one of the maps does not have the label.

    Raises:
        InputError: shapes or dtypes that do not fit.
    """
    from scipy.ndimage import find_objects

    if a.ndim not in (2, 3) or len(spacing) != a.ndim:
        raise InputError(
            f"a, spacing: expected shape (H, W) or (D, H, W) and one spacing per axis, "
            f"got {tuple(a.shape)} and {tuple(spacing)}"
        )
    labels, index_a, index_b = _renumber(a, b, labels)
    boxes_a, boxes_b = (find_objects(index, len(labels)) for index in (index_a, index_b))
    distances = dict.fromkeys(labels, math.nan)
    for number, (label, *boxes) in enumerate(zip(labels, boxes_a, boxes_b, strict=True), start=1):
        if None not in boxes:
            box = tuple(slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(*boxes, strict=True))
            distances[label] = _hd95_of_masks(index_a[box] == number, index_b[box] == number, tuple(spacing))
    return distances


def tre(fixed_points: Tensor, moving_points: Tensor, disp: Tensor, spacing: Sequence[float]) -> Tensor:
    """Target registration error: distance in mm between each moved fixed landmark and its moving landmark.

    Args:
        fixed_points, moving_points: (M, ndim), floating, in voxels of the fixed grid, pairwise.
        disp: (1, ndim, *spatial) displacement field in voxels, sampled linearly at the fixed points. A point outside
            the grid takes the displacement of the nearest place on its border.
        spacing: of the voxels along each axis, in mm.

    Returns:
        (M,) in the dtype of the field.

    Raises:
        InputError: shapes that do not fit.
    """
    ndim = _check.field("disp", disp)
    for name, points in (("fixed_points", fixed_points), ("moving_points", moving_points)):
        if points.ndim != 2 or points.shape != (len(fixed_points), ndim) or not len(points):
            expected = f"({len(fixed_points) or 'M'}, {ndim}), a point for each of the other image"
            raise InputError(f"{name}: expected shape {expected}, got {tuple(points.shape)}")
    if disp.shape[0] != 1 or len(spacing) != ndim:
        raise InputError(
            f"disp, spacing: expected one field and {ndim} spacings, got shape {tuple(disp.shape)} and {tuple(spacing)}"
        )
    fixed, moving = (points.to(disp) for points in (fixed_points, moving_points))
    # Warping samples at x + offset; the output grid here is the list of points, (m, 0, 0).
    offset = fixed.T.clone()
    offset[0] -= torch.arange(len(fixed), device=disp.device)
    offset = offset.reshape(1, ndim, -1, *(1,) * (ndim - 1))
    moved = fixed + warp(disp, offset).reshape(ndim, -1).T
    error = (moved - moving) * numbers([float(mm) for mm in spacing], disp)
    return error.square().sum(dim=1).sqrt()


def log_jacobian_std(disp: Tensor) -> Tensor:
    """Standard deviation of the logarithm of the Jacobian determinant, clipped to [1e-9, 1e9].

    Args:
        disp: (N, ndim, *spatial) displacement field in voxels.

    Returns:
        (N,) float64. Learn2Reg's own script adds 3 to the determinant before it takes the logarithm; its
        numbers are lower than these, which follow the definition (Leow et al., IEEE TMI 2007).
    """
    det = jacobian_determinant(disp).flatten(1).double()
    return det.clamp_(1e-9, 1e9).log_().std(dim=1, correction=0)


def folding_fraction(disp: Tensor) -> Tensor:
    """Fraction of the voxels where ``x + disp(x)`` folds: the Jacobian determinant is not positive.

    Args:
        disp: (N, ndim, *spatial) displacement field in voxels.

    Returns:
        (N,) float64, 0 to 1.
    """
    return _fraction(jacobian_determinant(disp) <= 0)


def digital_folding_fraction(disp: Tensor) -> Tensor:
    """Fraction of the voxels where the map on the grid is no digital diffeomorphism.

    It finds the folds that `folding_fraction`, by central differences as in Learn2Reg, misses: what counts is the least
    of the determinants that `l2rfast.digital_jacobian` is about (Liu et al., IJCV 2024).

    Args:
        disp: (N, ndim, *spatial) displacement field in voxels.

    Returns:
        (N,) float64, 0 to 1, never less than `folding_fraction` but for rounding.
    """
    return _fraction(digital_jacobian(disp) <= 0)


def global_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of two images over all channels and voxels.

    Args:
        a, b: (N, C, *spatial), floating, of one shape.

    Returns:
        (N,) float64, -1 to 1; NaN where an image is constant.

    Raises:
        InputError: shapes or dtypes that do not fit.
    """
    parts = _parts(a, b)
    means = torch.stack([torch.stack([x.sum(1), y.sum(1)]) for x, y in parts()]).sum(0)[..., None] / a[0].numel()
    products = []
    for part in parts():
        x, y = (x - mean for x, mean in zip(part, means, strict=True))
        products.append(torch.stack([(x * y).sum(1), x.square().sum(1), y.square().sum(1)]))
    ab, aa, bb = torch.stack(products).sum(0)
    correlation: Tensor = ab / (aa * bb).sqrt()
    return correlation


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of two images over all channels and voxels.

    Args:
        a, b: (N, C, *spatial), floating, of one shape.

    Returns:
        (N,) float64.

    Raises:
        InputError: shapes or dtypes that do not fit.
    """
    squares = [(x - y).square().sum(1) for x, y in _parts(a, b)()]
    total: Tensor = torch.stack(squares).sum(0)
    return total / a[0].numel()


def _parts(a: Tensor, b: Tensor) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Gives two images part by part, (N, voxels) float64 each: the products of 1e20 are no float32."""
    _check.image("a", a)
    _check.image("b", b)
    _check.same("a, b", a, b)
    pairs = list(zip(*(torch.split(x.flatten(1), _PART, 1) for x in (a, b)), strict=True))
    return lambda: ((x.double(), y.double()) for x, y in pairs)


def _fraction(where: Tensor) -> Tensor:
    """(N,) float64, of what is true in each of a batch."""
    return where.flatten(1).sum(1).double() / where[0].numel()


def _renumber(a: Tensor, b: Tensor, labels: Iterable[int] | None) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The labels to measure, and both maps with the n-th of them as n + 1 and all else as 0."""
    for name, labelled in (("a", a), ("b", b)):
        if labelled.is_floating_point() or labelled.dtype in (torch.bool, torch.complex64, torch.complex128):
            raise InputError(f"{name}: expected labels of an integer dtype, got {labelled.dtype}")
    if a.shape != b.shape or not a.numel():
        raise InputError(f"a, b: expected one shape, not empty, got {tuple(a.shape)} and {tuple(b.shape)}")
    maps = [labelled.detach().cpu().numpy() for labelled in (a, b)]
    wanted = np.unique(maps[0] if labels is None else np.fromiter(labels, np.int64))
    wanted = wanted[wanted != 0].astype(np.int64) if labels is None else wanted
    lowest = min(0, *wanted, *(int(m.min()) for m in maps))
    highest = max(0, *wanted, *(int(m.max()) for m in maps))
    if lowest < 0:
        raise InputError(f"a, b, labels: expected labels from 0 up, got {lowest}")
    if highest < _TABLE_SIZE:
        table = np.zeros(highest + 1, np.int32)
        table[wanted] = np.arange(1, len(wanted) + 1)
        first, second = (table[m] for m in maps)
    else:
        first, second = (np.where(np.isin(m, wanted), np.searchsorted(wanted, m) + 1, 0) for m in maps)
    return wanted.tolist(), first, second


def _hd95_of_masks(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    from scipy.spatial import cKDTree

    (points_a, areas_a), (points_b, areas_b) = (_surface(mask, spacing) for mask in (a, b))
    to_a, to_b = (cKDTree(points, balanced_tree=False) for points in (points_a, points_b))
    workers = torch.get_num_threads()
    return max(
        _percentile_95(to_b.query(points_a, workers=workers)[0], areas_a),
        _percentile_95(to_a.query(points_b, workers=workers)[0], areas_b),
    )


def _percentile_95(distances: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(distances)
    below = np.cumsum(weights[order])
    return float(distances[order[np.searchsorted(below, 0.95 * below[-1])]])


def _surface(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The surface elements of a mask: where they are, in mm, and their areas."""
    code: np.ndarray = np.pad(mask, 1).astype(np.uint8)
    for axis in range(mask.ndim):
        low, high = np.delete(code, -1, axis), np.delete(code, 0, axis)
        code = low | high << (1 << axis)
    areas = _element_areas(spacing)[code]
    places = np.nonzero(areas)
    return np.stack(places, axis=1) * spacing, areas[places]


@cache
def _element_areas(spacing: tuple[float, ...]) -> np.ndarray:
    """Area inside each neighbourhood of 2x2x2 voxels (length, for 2x2) of the surface that marching cubes
    draws there (Lorensen and Cline, SIGGRAPH 1987).

    Bit n of the index says whether corner n is inside; bit k of n is the position of the corner on axis k.
    """
    corners = range(2 ** len(spacing))
    areas = np.zeros(2 ** len(corners))
    for code in range(len(areas)):
        inside = {n for n in corners if code >> n & 1}
        if 2 * len(inside) > len(corners):  # the surface of the outside is the same
            inside = set(corners) - inside
        while inside:
            part = _connected(inside.pop(), inside, len(spacing))
            inside -= part
            areas[code] += _cut_area(part, spacing)
    return areas


def _connected(start: int, corners: set[int], ndim: int) -> set[int]:
    part, front = {start}, {start}
    while front:
        front = {n ^ (1 << axis) for n in front for axis in range(ndim)} & corners - part
        part |= front
    return part


def _cut_area(part: set[int], spacing: tuple[float, ...]) -> float:
    """Area of the polygon through the midpoints of the edges that leave a connected set of corners.

    It need not be flat: its triangles count. They share an end of its longest diagonal, as measured in voxels, which
    gives surface-distance's areas.
    """
    axes = range(len(spacing))
    points = np.array(
        [
            [0.5 if k == axis else corner >> k & 1 for k in axes]
            for corner in part
            for axis in axes
            if corner ^ (1 << axis) not in part
        ]
    )
    if len(axes) == 2:
        return float(np.linalg.norm((points[0] - points[1]) * spacing))
    # In the order around the centre, as seen in the plane that fits the points best.
    spokes = points - points.mean(axis=0)
    _, _, (first, second, _) = np.linalg.svd(spokes)
    points = points[np.argsort(np.arctan2(spokes @ second, spokes @ first))]
    lengths = np.linalg.norm(points[:, None] - points, axis=2)
    apex = int(lengths.max(axis=1).argmax())
    spokes = (np.roll(points, -apex, axis=0) - points[apex])[1:] * spacing
    return float(np.linalg.norm(np.cross(spokes[:-1], spokes[1:]), axis=1).sum() / 2)
