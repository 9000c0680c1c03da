"""Images on another grid, through transforms of the world, interpolated once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import cast

import numpy as np
import torch
from torch import Tensor

from . import _check
from .errors import InputError
from .transforms import FIELD_MODES, MODES, WARP_MODES, affine_warp, warp
from .world import Grid, Transform
from .world.maps import Map

INTERPOLATIONS = FIELD_MODES
TOGETHER = 2**21  # voxels that are resampled at a time, if a volume has not more
LABELS = ("nearest", "vote")  # those that give no number that was not there


class Resampler:
    """Takes images from the grid of moving to that of fixed; the places are computed once, for a whole series.

    Args:
        transform: from fixed to moving; or where it takes the voxels of fixed, which is known already.
        fixed: the grid of the result.
        moving: the grid of the images.
        interpolation: one of `INTERPOLATIONS`, see `l2rfast.warp`.
        outside: what there is farther than half a voxel beyond moving's voxels, as ITK has it; within that half,
            images go on as at their border.
        dtype: in which places are computed, float32 or float64.

    Raises:
        InputError: an unknown interpolation.
    """

    def __init__(
        self,
        transform: Transform | Map,
        fixed: Grid,
        moving: Grid,
        *,
        interpolation: str = "linear",
        outside: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check.choice("interpolation", interpolation, INTERPOLATIONS)
        self.fixed, self.moving, self.mode, self.outside = fixed, moving, interpolation, outside
        went = transform if isinstance(transform, Map) else transform.carried(Map.of(fixed))
        matrix = torch.from_numpy(np.linalg.solve(moving.affine, went.frame)[:3])
        if len(moving.shape) == 2 or moving.size[2] == 1 == fixed.size[2]:
            matrix[2] = 0  # a slice is resampled in its plane, wherever that lies
        disp = None if went.disp is None else went.disp.to(dtype)
        # What samples by a field and a matrix in one pass has no need of another field, nor what needs no field at all.
        self._by_field = interpolation not in (MODES if disp is not None else WARP_MODES)
        if self._by_field:
            disp = torch.zeros(1, 3, *fixed.size, dtype=dtype) if disp is None else disp
            disp, matrix = Map(went.size, went.frame, disp).towards(matrix), torch.eye(3, 4, dtype=torch.float64)
        self._disp, self._matrix = disp, matrix[None].to(dtype)

    @property
    def reaches(self) -> bool:
        """Whether any voxel of fixed lies within moving. Few are looked at first."""
        return any(not self._off(step).all() for step in (8, 1))

    def _off(self, step: int) -> Tensor:
        """(1, 1, *size) bool: which of every so many voxels of fixed lie beyond moving."""
        nothing = torch.zeros((), dtype=torch.bool, device=self._matrix.device).expand(1, 1, *self.moving.size)
        matrix, disp = self._matrix.clone(), self._disp
        matrix[..., :3] *= step
        size = [-(-n // step) for n in self.fixed.size]
        disp = None if disp is None else disp[..., ::step, ::step, ::step] / step
        return affine_warp(nothing, matrix, size, disp=disp, mode="nearest", outside=True)

    @cached_property
    def _beyond(self) -> Tensor:
        return self._off(1)

    def __call__(self, images: Tensor) -> Tensor:
        """Resample.

        Args:
            images: (1, C, *moving), in a dtype that the interpolation takes.

        Returns:
            (1, C, *fixed) in the same dtype.

        Raises:
            InputError: another shape than moving's.
        """
        if images.ndim < 4 or tuple(images.shape[2:]) != tuple(self.moving.shape):
            raise InputError(f"images: expected shape (1, C, {self.moving.shape}), got {tuple(images.shape)}")
        lifted = images.reshape(1, images.shape[1], *self.moving.size)
        # In the half voxel beyond their voxels, as ITK: splines there are those of the mirrored image.
        if self._by_field:
            padding = "reflection" if self.mode == "cubic" else "border"
            found = warp(lifted, cast("Tensor", self._disp), mode=self.mode, padding=padding)
            found.masked_fill_(self._beyond, self.outside)
        else:
            found = affine_warp(
                lifted, self._matrix, self.fixed.size, disp=self._disp, mode=self.mode, outside=self.outside
            )
        return found.view(1, images.shape[1], *self.fixed.shape)

    def series(self, volumes: Iterable[Tensor]) -> Iterator[Tensor]:
        """Resample one after the other; small ones several at a time, for which places are computed once.

        Args:
            volumes: (C, *moving) each.

        Returns:
            (C, *fixed) each.
        """
        several = max(1, TOGETHER // max(math.prod(self.moving.size), math.prod(self.fixed.size)))
        waiting = iter(volumes)
        while batch := list(islice(waiting, several)):
            found = self(torch.cat(batch)[None])[0]
            yield from torch.split(found, [len(volume) for volume in batch])


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values in another dtype, to the nearest integer where that holds integers, and to the ends of their range.

    NaN becomes 0 there.
    """
    if values.dtype == dtype or dtype.kind not in "iu":
        return np.asarray(values, dtype)
    ends = np.iinfo(dtype)
    whole = np.rint(values)
    low, high = whole <= ends.min, whole >= ends.max
    found = np.where(low | high | (whole != whole), 0, whole).astype(dtype)
    found[low], found[high] = ends.min, ends.max
    return found
