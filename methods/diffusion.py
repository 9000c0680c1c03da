"""Stiffness of a field beside what images are compared by: the diffusion energy of its displacements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2rfast.losses import diffusion_energy

from .similarity import Distance


def stiffened(distances: tuple[Distance, Distance], weight: float, sides: Sequence[float]) -> tuple[Distance, Distance]:
    """Two distances, and to each of them the diffusion energy of its field, as variational optical flow has it.

        weight / 2 * sum over components i and axes j of the mean over neighbours along j of (du_i / dx_j)^2

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
    share = weight / 2 * len(sides) ** 2  # what is a mean over components and axes

    def stiff(field: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = distance(field)
        with torch.enable_grad():
            field = field.detach().requires_grad_()
            energy = share * diffusion_energy(field, spacing=sides)
            (pull,) = torch.autograd.grad(energy, field)
        return loss + energy.detach(), gradient.add_(pull)

    return stiff
