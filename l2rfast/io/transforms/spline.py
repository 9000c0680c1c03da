"""Displacements by cubic B-splines of control points, with the edges that tools give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...errors import InputError
from ...world import Transform
from ...world.maps import Map
from ...world.points import on_line

_REACH = 2  # control points, to where one has weight
_ROUNDING = 1e-9  # of a place on the last plane, between control points
_ENDLESS = 1e9  # control points, across a slice
_TOGETHER = 2**18  # voxels: their places in float64 stay in a cache


@dataclass(frozen=True, eq=False)
class Spline(Transform):
    """A displacement by uniform cubic B-splines, on its way to a field: formats lay the chain that it is in on a grid.

    Attributes:
        coefficients: (1, 3, *control points) float64, in millimetres; of a slice the last axis has a length of 1.
        affine: (4, 4), control point -> place.
        beyond: which control points follow on the last: ``"replicate"``, the last again; ``"constant"``, some of 0;
            ``"none"``, so that points stay where one of the four of an axis is missing.
    """

    coefficients: Tensor
    affine: np.ndarray
    beyond: str

    @property
    def ndim(self) -> int:
        return 2 if self.coefficients.shape[-1] == 1 else 3

    def __call__(self, points: Tensor) -> Tensor:
        line = (max(len(points), 1), 1, 1)
        (vectors,) = on_line(lambda disp: (self._at(Map(line, np.eye(4), disp)),), points)
        return points + vectors

    def carried(self, map: Map) -> Map:
        return map.added(self.vectors(map), np.eye(4))

    def vectors(self, map: Map) -> Tensor:
        """(1, 3, D, H, W) float32, in millimetres, where a map leads."""
        vectors = torch.empty(1, 3, *map.size)
        for planes, part in map.slabs(_TOGETHER):
            vectors[:, :, planes] = self._at(part)
        return vectors

    def _at(self, map: Map) -> Tensor:
        """The same in float64."""
        if self.beyond != "none":
            wider = self.affine.copy()
            wider[:3, 3] -= _REACH * wider[:3, :3].sum(1)
            return map.sampled(pad(self.coefficients, [_REACH] * 6, self.beyond), wider, "cubic")
        size = np.array(self.coefficients.shape[2:])
        # Where four are there is one voxel.
        inner = np.diag([*np.where(size == 1, _ENDLESS, size - 3 + 2 * _ROUNDING), 1])
        inner[:3, 3] = (size - 1) / 2
        one = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
        missing = map.sampled(one, self.affine @ inner, "nearest", "zeros") == 0
        return map.sampled(self.coefficients, self.affine, "cubic").masked_fill_(missing, 0)

    @property
    def inverse(self) -> Transform:
        raise InputError("transform: expected B-splines that were laid on a grid")
