"""Which turn and translation of one image bring what a network sees in it nearest to what it sees in another.

What it sees are its features at the coarsest level, which do without a contrast: of fixed, and of moving in each of
some turns. Of every turn their correlation is known at all translations at once, over what overlaps there: Padfield,
"Masked object registration in the Fourier domain", IEEE Transactions on Image Processing 2012, of vectors whose mean is
taken off before. Turns and translations are compared by the information in such a correlation, were both images normal,
times the places that overlap: neither a small overlap that fits by chance nor a large one of unlike parts wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast import affine_warp, block_average

from .translations import Placed, box, lag, pooled, quick

WIDEST, APART = 50.0, 40.0  # degrees, of the turns that are tried: any up to 45 is within 27 of one
CELLS = 28  # along the longest side of the smaller image; a feature is of two along each axis
MOST = 2**16  # cells of an image
COMPONENTS = 8  # of the features, along which those of fixed differ most
LEAST = 0.25  # of the smaller image, that has to overlap the other
MOSTLY = 0.49  # of the voxels of a feature, that have to count: half of them, but for rounding
TOGETHER = 8  # turns, by which convolutions are several times faster than one by one
NEARLY = 1 - 1e-6  # of which correlation is the most that is told apart
SPATIAL = (-3, -2, -1)

Features = Callable[[Tensor], Tensor]  # (N, 1, *cells) -> (N, channels, *cells / 2)


class Turned(NamedTuple):
    """Attributes:
    best: (4, 4) each, place of fixed -> place of moving in mm, the best first; none that have nothing in common.
    spacing: of the cells, in mm.
    """

    best: list[Tensor]
    spacing: float


class _Grid(NamedTuple):
    """Cells about a centre.

    Attributes:
        first: (3,) of the first one's beginning from the centre, in cells along the axes.
        size: even numbers.
    """

    first: Tensor
    size: list[int]


class _Seen(NamedTuple):
    """Attributes:
    features: (N, channels, *spatial), 0 where nothing counts, of mean 0 elsewhere.
    counts: (N, *spatial), 1 or 0.
    """

    features: Tensor
    counts: Tensor


def turned(images: Sequence[Placed], axes: Tensor, features: Features) -> Turned:
    """Turns of a volume, each with the translation at which it is most like another one.

    Args:
        images: fixed and moving, from 0 to 1.
        axes: (3, 3), orthonormal columns: of the cells of fixed; those of moving are turned.
        features: what is compared.
    """
    spacing = _spacing(images, axes)
    fixed, moving = (pooled(image, spacing / 2) for image in images)
    (here, there), found = (_middle(image) for image in (fixed, moving)), []
    grid = _grid(fixed, [axes], here, spacing)
    one = _seen(fixed, [axes], here, spacing, grid, features)
    # Products of vectors are the same along all axes of their space, and nearly so along few in which they differ.
    flat = one.features[0].flatten(1)
    components = torch.linalg.eigh(flat @ flat.T)[1][:, -COMPONENTS:].T
    directions = [axes @ turn for turn in _turns()]
    directions.sort(key=lambda turn: _room(moving, turn))  # grids of about one size together
    for start in range(0, len(directions), TOGETHER):
        some = directions[start : start + TOGETHER]
        cells = _grid(moving, some, there, spacing)
        others = _seen(moving, some, there, spacing, cells, features)
        for direction, (information, by) in zip(some, _best(one, others, components), strict=True):
            turn, matrix = direction @ axes.T, torch.eye(4, dtype=torch.float64)
            offset = direction @ (spacing * (2 * by + cells.first - grid.first))
            matrix[:3, :3], matrix[:3, 3] = turn, there - turn @ here + offset
            found.append((information, matrix))
    found.sort(key=lambda each: -each[0])
    return Turned([matrix for information, matrix in found if information > 0], spacing)


def _turns() -> Iterator[Tensor]:
    """Rotations by the vectors of a body-centred lattice."""
    steps = np.arange(-WIDEST // APART, WIDEST // APART + 1)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    for vector in np.radians(APART) * np.concatenate([lattice, lattice + 0.5]):
        if np.linalg.norm(vector) <= np.radians(WIDEST):
            x, y, z = vector
            yield torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))


def _spacing(images: Sequence[Placed], axes: Tensor) -> float:
    """Of cells, in mm: not much below that of voxels, and not so many that it takes long."""
    sides = [high - low for low, high in (box(image, axes) for image in images)]
    spacing = min(float(side.max()) for side in sides) / CELLS
    spacing = max(spacing, *(float(image.affine[:-1, :-1].norm(dim=0).min()) for image in images))
    most = max(math.prod((side / spacing).clamp(min=1).tolist()) for side in sides)
    return float(spacing * max(1.0, most / MOST) ** (1 / 3))


def _middle(placed: Placed) -> Tensor:
    """Of the grid of an image, in mm."""
    half = torch.tensor([(n - 1) / 2 for n in placed.image.shape[2:]], dtype=torch.float64)
    return placed.affine[:-1, :-1] @ half + placed.affine[:-1, -1]


def _room(placed: Placed, direction: Tensor) -> float:
    low, high = box(placed, direction)
    return float((high - low).prod())


def _grid(placed: Placed, directions: Sequence[Tensor], centre: Tensor, spacing: float) -> _Grid:
    """That holds an image, whichever the directions of its axes are."""
    boxes = [torch.stack(box(placed, direction)) - direction.T @ centre for direction in directions]
    low, high = torch.stack([low for low, _ in boxes]).amin(0), torch.stack([high for _, high in boxes]).amax(0)
    first = 2 * (low / (2 * spacing)).floor()
    return _Grid(first, (2 * ((high / spacing - first) / 2).ceil()).int().tolist())


def _seen(
    placed: Placed, directions: Sequence[Tensor], centre: Tensor, spacing: float, grid: _Grid, features: Features
) -> _Seen:
    """The features of an image in grids of those directions, one of each."""
    matrices = []
    for direction in directions:
        cells = torch.eye(4, dtype=torch.float64)
        cells[:3, :3], cells[:3, 3] = spacing * direction, centre + direction @ (spacing * (grid.first + 0.5))
        matrices.append(torch.linalg.solve(placed.affine, cells)[:3])
    matrix = torch.stack(matrices).to(placed.image)
    image, weight = (x.expand(len(matrix), -1, -1, -1, -1).contiguous() for x in (placed.image, placed.weight))
    counts = affine_warp(weight, matrix, grid.size, padding="zeros")
    counts = (block_average(counts, [2] * 3) > MOSTLY).to(image)
    seen = features(affine_warp(image, matrix, grid.size))
    mean = (seen * counts).sum(SPATIAL, keepdim=True) / counts.sum(SPATIAL, keepdim=True).clamp(min=1)
    return _Seen((seen - mean) * counts, counts[:, 0])


def _best(one: _Seen, others: _Seen, components: Tensor) -> list[tuple[float, Tensor]]:
    """Of each of the others its information and (3,) by how many features it is moved, where that is most."""
    size = others.counts.shape[1:]
    sizes = [quick(a + b - 1) for a, b in zip(one.counts.shape[1:], size, strict=True)]

    def spectrum(x: Tensor) -> Tensor:
        found: Tensor = torch.fft.rfftn(x, sizes, SPATIAL)
        return found

    def correlated(a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = torch.fft.irfftn(a.conj() * b, sizes, SPATIAL)
        return found

    here, there = spectrum(one.counts), spectrum(others.counts)
    squares = [spectrum(x.features.square().sum(1)) for x in (one, others)]
    parts = [spectrum(torch.einsum("pc,nc...->np...", components, x.features)) for x in (one, others)]
    both = torch.fft.irfftn((parts[0].conj() * parts[1]).sum(1), sizes, SPATIAL)
    worth = correlated(squares[0], there) * correlated(here, squares[1])
    overlap = correlated(here, there)
    likeness = (both / worth.clamp(min=torch.finfo(worth.dtype).eps * float(worth.max())).sqrt()).clamp(0, NEARLY)
    information = -overlap / 2 * torch.log1p(-likeness.square())
    found = []
    for each, shared, counts in zip(information, overlap, others.counts, strict=True):
        least = LEAST * min(float(one.counts.sum()), float(counts.sum()))
        each = torch.where(shared >= max(least, 0.5), each, 0)
        # NumPy's: for PyTorch's, SymPy is imported.
        index = [int(i) for i in np.unravel_index(int(each.argmax()), tuple(each.shape))]
        found.append((float(each.max()), lag(index, size, sizes)))
    return found
