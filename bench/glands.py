"""What the labels of prostates tell alone, without a network: the shapes of glands, and what could be reached by who
knows where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

import torch
from torch import Tensor

from l2rfast import affine_warp
from l2rfast.io import read_image, read_masks
from l2rfast.methods.training.cases import Pair


def overlap(a: Tensor, b: Tensor) -> float:
    """Dice of two masks; of empty ones 0."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1))


def moved(mask: Tensor, offset: Sequence[float], size: Sequence[int], scale: Tensor | None = None) -> Tensor:
    """A mask on another grid, whose voxel i is the voxel scale * i + offset of the mask's own."""
    ndim = mask.ndim
    linear = torch.eye(ndim) if scale is None else scale.float().diag()
    matrix = torch.cat([linear, torch.tensor(offset).float().view(ndim, 1)], 1)
    warped: Tensor = affine_warp(mask.float()[None, None], matrix[None], list(size), padding="zeros")[0, 0]
    return warped >= 0.5


def shapes(pairs: Iterable[Pair]) -> Iterator[str]:
    """Of the public pairs' glands: the figures in `l2rfast.data.prostates`."""
    of: dict[str, list[Tensor]] = {"fixed": [], "moving": []}
    for pair in pairs:
        for role, case in (("fixed", pair.fixed), ("moving", pair.moving)):
            assert case.labels is not None
            image = read_image(case.image)
            places = read_masks(case.labels, image)[0].nonzero().double()
            middle = (torch.tensor(image.data.shape) - 1) / 2
            of[role].append(torch.stack([places.mean(0) - middle, places.std(0).log()]))
    fixed, moving = (torch.stack(of[role]) for role in ("fixed", "moving"))
    for role, found in (("fixed", fixed), ("moving", moving)):
        yield _line(f"{role}, centre of the gland from that of the grid, voxels", found[:, 0])
    size = moving[:, 1].mean(1, keepdim=True)
    yield _line("moving, logarithm of the standard deviation of the gland", moving[:, 1])
    yield _line("moving, likewise, the mean of the axes", size)
    yield _line("moving, likewise, beside the mean of the axes", moving[:, 1] - size)
    yield _line("fixed beside moving, logarithm of the ratio", fixed[:, 1] - moving[:, 1])


def bounds(pairs: Iterable[Pair]) -> Iterator[str]:
    """Of the public pairs: the mean Dice of what could be known, and what an error of the place costs."""
    errors = (0, 1, 2, 3, 4, 6, 8)
    found: dict[str, list[float]] = {}
    for number, pair in enumerate(pairs):
        assert pair.fixed.labels is not None
        assert pair.moving.labels is not None
        masks = [read_masks(case.labels, read_image(case.image))[0] for case in (pair.fixed, pair.moving)]
        (at, small), (to, large) = ((p.mean(0), p.std(0)) for p in (mask.nonzero().double() for mask in masks))
        size, ones = masks[0].shape, torch.ones(3).double()
        middle = (torch.tensor(masks[1].shape) - torch.tensor(size)).double() / 2
        ratio = large / small
        random = torch.Generator().manual_seed(number)
        directions = torch.nn.functional.normalize(torch.randn(6, 3, generator=random).double(), dim=1)
        tried = {"first voxels": [(0 * middle, ones)], "centres of the grids": [(middle, ones)]}
        tried["known centroids"] = [(to - at, ones)]
        for error in errors:
            places = [(to - ratio * at + error * direction, ratio) for direction in directions]
            tried[f"known centroids and sizes, off by {error} voxels"] = places
        for name, maps in tried.items():
            scores = [overlap(masks[0], moved(masks[1], offset.tolist(), size, scale)) for offset, scale in maps]
            found.setdefault(name, []).append(fmean(scores))
    for name, values in found.items():
        yield f"{name}: {fmean(values):.3f}"


def _line(what: str, found: Tensor) -> str:
    mean, deviation = (", ".join(f"{value:.3f}" for value in each.tolist()) for each in (found.mean(0), found.std(0)))
    return f"{what}: mean {mean}; standard deviation {deviation}"
