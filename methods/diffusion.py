"""Stiffness of a field beside what images are compared by: the diffusion energy of its displacements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .refine import by_axis
from .similarity import Distance, mean_of


def stiffened(distances: tuple[Distance, Distance], weight: float, sides: Sequence[float]) -> tuple[Distance, Distance]:
    """Two distances, and to each of them the diffusion energy of its field, as variational optical flow has it.

        weight / 2 * mean over the voxels of the sum over components i and axes j of (du_i / dx_j)^2

    Horn & Schunck, "Determining optical flow", 1981; Fischer & Modersitzki, "Fast diffusion registration", 2002. It has
    no unit and is the same at every level, so that levels agree on what a field may cost.

    Args:
        distances: of displacement fields in voxels of their level.
        weight: of the energy beside the distance.
        sides: of a voxel of the level, in units of the shortest.
    """
    first, second = (_stiffened(distance, weight, sides) for distance in distances)
    return first, second


def _stiffened(distance: Distance, weight: float, sides: Sequence[float]) -> Distance:
    def stiff(field: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = distance(field)
        lengths, pull, energy = by_axis(sides, field), torch.zeros_like(field), 0.0
        displacement = field * lengths
        for axis, side in enumerate(sides, 2):
            steps = displacement.diff(dim=axis).div_(side)
            number = steps.shape[axis]
            squares = steps.square().sum(1, keepdim=True)
            energy += float(mean_of(squares, torch.ones_like(squares))) * number / field.shape[axis]
            steps.div_(side)
            pull.narrow(axis, 1, number).add_(steps)
            pull.narrow(axis, 0, number).sub_(steps)
        pull.mul_(lengths).mul_(weight / field[0, 0].numel())
        return loss + weight / 2 * energy, gradient.add_(pull)

    return stiff
