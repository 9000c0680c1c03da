"""Cubic B-splines as ITK and elastix have them: displacements by coefficients at control points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from ...errors import InputError
from ...world import Transform
from ...world.maps import Map

_ROUNDING = 1e-9  # of a place on the last plane, between control points


@dataclass(frozen=True, eq=False)
class Spline(Transform):
    """A displacement by cubic B-splines, on its way to a field: formats lay the chain that it is in on a grid.

    Where not all four control points of an axis are there, points stay.

    Attributes:
        coefficients: (3, *control points) float64, in RAS millimetres; of a slice two axes of points.
        affine: (4, 4), control point -> RAS millimetres.
    """

    coefficients: np.ndarray
    affine: np.ndarray

    @property
    def ndim(self) -> int:
        return self.coefficients.ndim - 1

    def __call__(self, points: Tensor) -> Tensor:
        back, size = np.linalg.inv(self.affine), np.array(self.coefficients.shape[1:])
        places = (points.double().numpy() @ back[:3, :3].T + back[:3, 3])[:, : len(size)]
        inside = ((places >= 1 - _ROUNDING) & (places <= size - 2 + _ROUNDING)).all(1)
        moved = points.double().clone()
        for k, values in enumerate(self.coefficients):
            found = map_coordinates(values, places[inside].T, order=3, prefilter=False, mode="nearest")
            moved[torch.from_numpy(inside), k] += torch.from_numpy(found)
        return moved.to(points)

    def carried(self, map: Map) -> Map:
        there = torch.from_numpy(map.frame)
        vectors = torch.empty(1, 3, *map.size)
        plane = torch.cartesian_prod(*(torch.arange(n).double() for n in map.size[1:])).view(-1, 2)
        for i in range(map.size[0]):  # a plane at a time, for the memory
            voxels = torch.cat([torch.full_like(plane[:, :1], i), plane], 1)
            if map.disp is not None:
                voxels += map.disp[0, :, i].flatten(1).T
            places = voxels @ there[:3, :3].T + there[:3, 3]
            vectors[0, :, i] = (self(places) - places).T.reshape(3, *map.size[1:])
        return map.added(vectors, np.eye(4))

    @property
    def inverse(self) -> Transform:
        raise InputError("transform: expected B-splines that were laid on a grid")
