"""How much two images tell of each other at every translation, by one look at all of them.

The joint histogram at a translation is, for every pair of bins, the number of places where one image has the first and
the other, moved, the second: a correlation of two masks, so a product of their Fourier transforms (Öfverstedt et al.,
"Fast computation of mutual information in the frequency domain with applications to global multimodal image
alignment", Pattern Recognition Letters 2022). Translations are compared by information, the mutual information times
the places that overlap: the logarithm of how much likelier the intensities are together than apart. So neither a small
overlap that fits by chance nor a large one of which one image says nothing of the other wins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast import affine_warp, block_average

BINS = 8
CELLS = 24  # along the longest side of the smaller image; of two axes about as many in all
MOST = 2**17  # cells of the grid of translations
LEAST = 0.25  # of the smaller image, that has to overlap the other
FEWEST = 8  # cells along an axis that has as many voxels: slabs keep their slices
NEAR = 2  # cells about a translation that count as the same


class Placed(NamedTuple):
    """An image and where it lies.

    Attributes:
        image: (1, 1, *spatial).
        affine: (ndim + 1, ndim + 1), voxel -> mm.
        mask: (1, 1, *spatial) float, 0 to 1: how much of every voxel counts; everything when None.
    """

    image: Tensor
    affine: Tensor
    mask: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The mask, of ones where there is none."""
        return torch.ones_like(self.image) if self.mask is None else self.mask

    @property
    def volume(self) -> float:
        """Of what counts, in mm^ndim."""
        count = self.image[0, 0].numel() if self.mask is None else float(self.mask.double().sum())
        return count * float(self.affine.det().abs())


class Translation(NamedTuple):
    """Attributes:
    by: (ndim,) in mm along the axes: place of fixed -> place of moving.
    information: in nats.
    told: likewise, of every place that overlaps: the mutual information.
    """

    by: Tensor
    information: float
    told: float


class Translations(NamedTuple):
    """Attributes:
    still: the information where nothing is translated, 0 where the images do not overlap there.
    best: those of the most information, the first the best; none where all of one image is alike.
    spacing: of the grid of translations, in mm.
    """

    still: float
    best: list[Translation]
    spacing: float


def compared(images: Sequence[Placed], axes: Tensor, count: int = 1) -> Translations:
    """The translations at which two images tell most of each other.

    Args:
        images: fixed and moving, from 0 to 1.
        axes: (ndim, ndim), orthonormal columns: along which moving is translated.
        count: how many, at most.
    """
    ndim = len(axes)
    boxes = [_box(image, axes) for image in images]
    spacing = min(float((high - low).max()) for low, high in boxes) / CELLS ** (3 / ndim)
    spacing = max(spacing, *(float(image.affine[:-1, :-1].norm(dim=0).min()) for image in images))
    while (
        math.prod(sum(max(1.0, float(high[k] - low[k]) / spacing) for low, high in boxes) for k in range(ndim)) > MOST
    ):
        spacing *= 1.05
    origin, parts = boxes[0][0] + spacing / 2, []
    for image, (low, high) in zip(images, boxes, strict=True):
        # Cells that lie on those of fixed, so that no translation at all is among them.
        first = ((low + spacing / 2 - origin) / spacing).round()
        size = [max(1, math.ceil(side)) for side in ((high - low) / spacing).tolist()]
        cells = torch.eye(ndim + 1, dtype=torch.float64)
        cells[:-1, :-1], cells[:-1, -1] = axes * spacing, axes @ (origin + spacing * first)
        parts.append((first, size, _masks(pooled(image, spacing), cells, size)))
    (_, fixed_size, fixed), (first, moving_size, moving) = parts
    sizes = [quick(a + b - 1) for a, b in zip(fixed_size, moving_size, strict=True)]
    least = LEAST * min(float(fixed.sum()), float(moving.sum()))
    information, overlap = _information(fixed, moving, sizes, least)

    still = [-int(lag) for lag in first]
    meet = all(-f < lag < m for lag, f, m in zip(still, fixed_size, moving_size, strict=True))
    known = float(information[tuple(lag % s for lag, s in zip(still, sizes, strict=True))]) if meet else 0.0
    best: list[Translation] = []
    while len(best) < count and (most := float(information.max())) > 0:
        # NumPy's: for PyTorch's, SymPy is imported.
        index = [int(i) for i in np.unravel_index(int(information.argmax()), tuple(information.shape))]
        best.append(
            Translation(spacing * (first + lag(index, moving_size, sizes)), most, most / float(overlap[tuple(index)]))
        )
        near = [torch.arange(i - NEAR, i + NEAR + 1) % s for i, s in zip(index, sizes, strict=True)]
        information[torch.meshgrid(*near, indexing="ij")] = 0
    return Translations(known, best, spacing)


def lag(index: Sequence[int], size: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """By how many cells an image of that size is moved at an index of a correlation of those sizes, where the second
    half of every axis stands for those below 0."""
    return torch.tensor([int(i) if i < n else int(i) - s for i, n, s in zip(index, size, sizes, strict=True)])


def quick(size: int) -> int:
    """The least size from there on that has no other prime factors than 2, 3 and 5: its transforms are quick. As
    ``scipy.fft.next_fast_len``, for which all of SciPy's transforms would be imported."""
    return next(n for n in itertools.count(size) if pow(30, n.bit_length(), n) == 0)


def _box(placed: Placed, axes: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest place of an image along axes, in mm, the halves of its outer voxels included."""
    ends = [torch.tensor([-0.5, n - 0.5], dtype=torch.float64) for n in placed.image.shape[2:]]
    corners = torch.stack(torch.meshgrid(*ends, indexing="ij")).flatten(1)
    places = axes.T @ (placed.affine[:-1, :-1] @ corners + placed.affine[:-1, -1:])
    return places.amin(1), places.amax(1)


def _masks(placed: Placed, cells: Tensor, size: Sequence[int]) -> Tensor:
    """(BINS, *size): for every bin, 1 where an image counts and has it, on a grid of cells whose affine is known."""
    image = placed.image
    matrix = torch.linalg.solve(placed.affine, cells)[None, :-1].to(image)
    there = affine_warp(placed.weight, matrix, size, padding="zeros")[0] > 0.5
    binned = (affine_warp(image, matrix, size)[0] * BINS).long().clamp(0, BINS - 1)
    bins = torch.arange(BINS, device=image.device).view(-1, *[1] * len(size))
    return ((binned == bins) & there).to(torch.float32)


def _information(fixed: Tensor, moving: Tensor, sizes: Sequence[int], least: float) -> tuple[Tensor, Tensor]:
    """Of every translation by so many cells, modulo the sizes, (*sizes): nats, 0 where less than `least` overlaps, and
    how many cells overlap.
    """
    axes = tuple(range(1, len(sizes) + 1))
    spectra = [torch.fft.rfftn(x, sizes, axes) for x in (fixed, moving)]
    joint = torch.stack([torch.fft.irfftn(x.conj() * spectra[1], sizes, axes) for x in spectra[0]])
    overlap = joint.sum((0, 1))
    # N log N of everything, and of every bin of both, less those of either's: N times the mutual information.
    found = _surprise(overlap) + _surprise(joint).sum((0, 1)) - sum(_surprise(joint.sum(k)).sum(0) for k in (0, 1))
    return torch.where(overlap >= least, found, 0), overlap


def _surprise(count: Tensor) -> Tensor:
    """n log n; what is below half a place is rounding."""
    return count.clamp(min=0.5).log_().mul_(count).masked_fill_(count <= 0.5, 0)


def pooled(placed: Placed, spacing: float) -> Placed:
    """Averages over about that many mm along every axis, but few on thin ones."""
    image, affine, mask = placed
    sides = affine[:-1, :-1].norm(dim=0).tolist()
    factors = [max(1, min(round(spacing / side), s // FEWEST)) for side, s in zip(sides, image.shape[2:], strict=True)]
    blocks = torch.eye(len(factors) + 1, dtype=torch.float64)
    for k, factor in enumerate(factors):
        blocks[k, k], blocks[k, -1] = factor, (factor - 1) / 2
    coarse = None if mask is None else block_average(mask, factors)
    return Placed(block_average(image, factors), affine @ blocks, coarse)
