"""The mean of maps, in their logarithms (Arsigny et al., MICCAI 2006; Alexa, SIGGRAPH 2002): what a template is moved
by, so that it has the mean shape of its members.

Of a displacement field u and its inverse w the velocity is (u - w) / 2, as

    exp(v) = v + (dv) v / 2 + ...        exp(-v) = -v + (dv) v / 2 - ...

whose even terms cancel: what remains are terms of third order.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

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

    def add(self, disp: Displacement, inverse: Displacement, affine: Affine) -> None:
        """One more: a displacement, its inverse, both on the grid in any order of its axes, and the map after it.

        Raises:
            InputError: the affine map mirrors, or turns by half a turn.
        """
        self._affine += logarithm(affine.array)
        there, back = (field.on(self.grid).disp for field in (disp, inverse))
        self._velocity += (there - back).double() / 2
        self._count += 1

    @cached_property
    def affine_back(self) -> Affine:
        """The inverse of the mean of the affine maps."""
        from scipy.linalg import expm  # slow to import, as all of SciPy

        matrix = expm(self._affine / -max(1, self._count))
        matrix[3] = 0, 0, 0, 1  # but for rounding
        return Affine(matrix)

    @cached_property
    def back(self) -> Transform:
        """The inverse of the mean: from places of the mean shape to those of the grid's space."""
        velocity = (self._velocity / -max(1, self._count)).float()
        return compose(self.affine_back, Displacement(integrate_velocity(velocity), self.grid.affine))


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
