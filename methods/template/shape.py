"""The mean of maps, in their logarithms (Arsigny et al., MICCAI 2006; Alexa, SIGGRAPH 2002): what a template is moved
by, so that it has the mean shape of its members.

Of a displacement field u and its inverse w the velocity is (u - w) / 2, as

    exp(v) = v + (dv) v / 2 + ...        exp(-v) = -v + (dv) v / 2 - ...

whose even terms cancel: what remains are terms of third order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast.errors import InputError
from l2rfast.fields import integrate_velocity
from l2rfast.world import Affine, Displacement, Grid, Transform, compose


class MeanMap:
    """The mean of maps that are a displacement at the voxels of a grid, then an affine map of the world.

    Sums are in float64 and in the order in which maps are added.

    Args:
        grid: of all displacements.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid, self._count = grid, 0
        self._affine = np.zeros((4, 4))
        self._velocity = torch.zeros(1, 3, *grid.size, dtype=torch.float64)

    def add(self, one: Tensor, affine: Affine) -> None:
        """One more: the `velocity` (1, 3, *grid) of a displacement, in voxels, and the map after it.

        Raises:
            InputError: see `logarithm`.
        """
        self._affine += logarithm(affine.array)
        self._velocity += one
        self._count += 1

    @property
    def back(self) -> Back:
        """The inverse of the mean."""
        from scipy.linalg import expm  # slow to import, as all of SciPy

        matrix = expm(self._affine / -max(1, self._count))
        matrix[3] = 0, 0, 0, 1  # but for rounding
        mean = (self._velocity / -max(1, self._count)).float()
        return Back(Affine(matrix), Displacement(integrate_velocity(mean), self.grid.affine))


class Back(NamedTuple):
    """From the mean shape to the space of a grid: a map, then a displacement on the grid."""

    affine: Affine
    displacement: Displacement

    @property
    def transform(self) -> Transform:
        return compose(*self)


def velocity(disp: Tensor, inverse: Tensor) -> Tensor:
    """Of a displacement and its inverse, of any shape and in any unit, but for terms of third order."""
    return (disp - inverse) / 2


def logarithm(matrix: np.ndarray) -> np.ndarray:
    """The principal one of an affine map (4, 4): real.

    Raises:
        InputError: it has none.
    """
    from scipy.linalg import logm

    values = np.linalg.eigvals(matrix[:3, :3])
    if ((values.real <= 0) & (np.abs(values.imag) <= 1e-6 * np.abs(values))).any():
        raise InputError(
            f"affine: expected a map that neither mirrors nor turns by half a turn, so that a mean can be made of it, "
            f"got {matrix[:3].tolist()}"
        )
    found: np.ndarray = logm(matrix).real
    found[3] = 0
    return found


def length(transform: Transform, grid: Grid) -> float:
    """Root mean square of how far a map takes the voxels of a grid, in millimetres."""
    vectors = transform.on(grid).vectors.double()
    return float(vectors.square().sum(0).mean().sqrt())
