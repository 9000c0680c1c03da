"""Displacement fields without folds, as a digital map counts them: see `l2rfast.digital_jacobian`.

Between voxels a field is interpolated, so a map can fold where the central differences of a voxel tell nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from l2rfast import box_average, compose, digital_jacobian, invert, warp

from .refine import Fields

LEAST = 0.01  # of a determinant: float32 fields are written with as many digits again
TURNS, WIDER = 60, 12  # after every so many, more is smoothed around a fold
SHARED = 0.7  # about as much is then left one way as the other
TILE = 24  # voxels; folds of one are smoothed together


def settled(fields: Fields) -> Fields:
    """A field and its inverse, of two that are nearly each other's: they meet in the middle, and have no folds.

    Args:
        fields: (1, ndim, *spatial) each, in voxels.

    Returns:
        The same shapes. The second is the inverse of the first, but where it would fold, up to interpolation: between
        voxels both are linear, as the inverse of such a field is not. An inverse that was exact at its own voxels
        would leave all of that to the way back.
    """
    there, back = fields
    del fields  # the caller may have kept them, or not
    there = unfold_(compose(there, compose(back, there).mul_(-0.5)))
    back = invert(there, back)
    return there, unfold_(back.sub_(warp(compose(back, there), back), alpha=SHARED))


def unfolded(field: Tensor) -> Tensor:
    """See `unfold_`; the field stays as it is."""
    return unfold_(field.clone())


def unfold_(field: Tensor) -> Tensor:
    """Have a field without folds, in place: smoothed where it has them, and around, until there are none.

    Args:
        field: (1, ndim, *spatial) displacements in voxels.

    Returns:
        The field, the same where no folds were near. Identical for any number of threads.
    """
    bad = digital_jacobian(field)[0] <= LEAST
    places = bad.nonzero()
    for turn in range(TURNS):
        if not len(places):
            return field
        reach = 1 + turn // WIDER
        boxes, found = _boxes(places, reach, bad.shape), []
        with _one_thread():
            # All of them of the field as it was: where boxes overlap, they agree.
            for box, smoother in [(box, _smoother(field, bad, box, reach)) for box in boxes]:
                field[:, :, *box] = smoother
            for box in boxes:
                checked, around = _wider(box, 1, bad.shape), _wider(box, 2, bad.shape)
                folds = (digital_jacobian(field[:, :, *around])[0] <= LEAST)[_within(checked, around)]
                bad[checked] = folds
                found.append(folds.nonzero() + torch.tensor([side.start for side in checked], device=field.device))
        places = torch.cat(found)
    # What is left is made small: a map that is close enough to the identity cannot fold.
    while (digital_jacobian(field) <= LEAST).any():
        field *= 0.8
    return field


@contextmanager
def _one_thread() -> Iterator[None]:
    """For many small boxes: several threads wait for each other longer than they work, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Box = tuple[slice, ...]


def _smoother(field: Tensor, bad: Tensor, box: Box, reach: int) -> Tensor:
    """What a box of a field becomes: averages of neighbours, little of them around a voxel that folds alone, nothing
    else where many do. So it stays most nearly what it is."""
    seen, around = _wider(box, reach, bad.shape), _wider(box, 1, bad.shape)
    near = box_average(bad[seen][None, None].to(field.dtype), reach)
    near = near.mul_(float(2 * reach + 1)).clamp_(max=1)[:, :, *_within(box, seen)]
    here, averages = field[:, :, *box], box_average(field[:, :, *around])[:, :, *_within(box, around)]
    return here + near * (averages - here)


def _boxes(places: Tensor, margin: int, size: Sequence[int]) -> list[Box]:
    """Boxes around places (M, ndim) of a grid, with a margin: one of each tile."""
    tiles, of = torch.unique(places // (TILE + margin), dim=0, return_inverse=True)
    boxes = []
    for tile in range(len(tiles)):
        found = places[of == tile]
        corners = zip(found.amin(0).tolist(), found.amax(0).tolist(), strict=True)
        boxes.append(_wider(tuple(slice(low, high + 1) for low, high in corners), margin, size))
    return boxes


def _wider(box: Box, margin: int, size: Sequence[int]) -> Box:
    """A box and a margin, as far as there is a grid of that size."""
    return tuple(slice(max(0, b.start - margin), min(n, b.stop + margin)) for b, n in zip(box, size, strict=True))


def _within(box: Box, around: Box) -> Box:
    """A box as a part of another."""
    return tuple(slice(b.start - a.start, b.stop - a.start) for b, a in zip(box, around, strict=True))
