"""What every method of registration is to those who apply it, and the images on the grid that it works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast import affine_warp, warp
from l2rfast.io import Volume, voxel_to_voxel

from .initial import NO_CHANGE, Initial
from .stages import Stages


@dataclass(frozen=True, eq=False)
class Registration:
    """What a registration found.

    Attributes:
        displacement: (1, ndim, *fixed) float32, in voxels of the fixed image: fixed at x corresponds to the place x +
            disp(x) of the fixed grid, wherever that lies in the moving image.
        fixed: the image as it was read.
        moving: likewise, with the header by which it lies where the initialisation put it.
        seconds: wall time of each stage, in order.
        options: the method's options as they were used.
        entropy: (1, 1, *fixed) of the displacements, in nats, from methods that know how sure they are.
        initial: where it started: a place y of the fixed world, and what the displacement adds to it, lies at
            ``initial.matrix @ (y + displacement)`` of moving's.
    """

    displacement: Tensor
    fixed: Volume
    moving: Volume
    seconds: dict[str, float]
    options: dict[str, Any]
    entropy: Tensor | None = None
    initial: Initial = NO_CHANGE

    @property
    def matrix(self) -> np.ndarray:
        """(ndim, ndim + 1): fixed voxel -> moving voxel, before any deformation."""
        return voxel_to_voxel(self.fixed.affine, self.moving.affine, self.fixed.data.ndim)

    def warp(self, moving: Tensor, *, mode: str = "linear", displaced: bool = True) -> Tensor:
        """Resample moving, or its labels, to the fixed grid, interpolating once; zero outside.

        Args:
            moving: (D, H, W) or (H, W) on the grid of the moving image; any floating dtype, or integers with
                ``"nearest"``.
            mode: ``"linear"`` or ``"nearest"``.
            displaced: with the displacement field, or through the affines alone, as before the registration.

        Returns:
            The same on the grid of the fixed image, in moving's dtype.
        """
        u, image = self.displacement, moving[None, None].to(self.displacement.device)
        m = torch.from_numpy(self.matrix).to(u)
        if not displaced:
            return affine_warp(image, m[None], u.shape[2:], mode=mode, padding="zeros")[0, 0]
        grid = torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in u.shape[2:]], indexing="ij")
        # From where fixed voxel x is sampled in moving, less x: separate products and sums round the same for
        # any number of threads.
        total = torch.empty_like(u)
        ndim = len(grid)
        for k in range(ndim):
            component = total[0, k]
            component.copy_(-grid[k]).add_(float(m[k, ndim]))
            for j in range(ndim):
                component.add_((grid[j] + u[0, j]).mul_(float(m[k, j])))
        return warp(image, total, mode=mode, padding="zeros")[0, 0]


class Found(NamedTuple):
    """What a method gives: a displacement field (1, ndim, *fixed), and where it has one its entropy (1, 1, *fixed)."""

    displacement: Tensor
    entropy: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """A way to register, its options chosen.

    Attributes:
        options: as they are used.
        prepared: an image of a name with the intensities that the method takes.
        run: the displacement field from a fixed to a moving image, on their device: both on the fixed grid, and the
            field in its voxels; or, where not ``aligned``, each on its own, and from a fixed index to the moving one.
        aligned: whether the affines are trusted to bring the images near each other.
    """

    options: dict[str, Any]
    prepared: Callable[[str, Tensor], Tensor]
    run: Callable[[Tensor, Tensor, Stages], Found]
    aligned: bool = True


def on_grid_of(fixed: Volume, moving: Volume, data: Tensor, *, mode: str = "linear", padding: str = "border") -> Tensor:
    """Moving's image or labels at the voxels of the fixed image, through both affines.

    Args:
        fixed, moving: the images whose grids they are.
        data: (N, C, *moving).
        mode, padding: as in `l2rfast.affine_warp`.

    Returns:
        (N, C, *fixed) in the dtype of data, and on its device.
    """
    ndim = fixed.data.ndim
    matrix = torch.from_numpy(voxel_to_voxel(fixed.affine, moving.affine, ndim)).to(data.device, torch.float32)
    return affine_warp(data, matrix[None], fixed.data.shape, mode=mode, padding=padding)


def apply(method: Method, fixed: Volume, moving: Volume, device: torch.device, stages: Stages) -> Registration:
    """Register a moving image to a fixed one.

    Raises:
        InputError: images that the method cannot take.
    """
    with torch.no_grad():
        with stages.stage("resampling"):
            images = [volume.data[None, None].to(device) for volume in (fixed, moving)]
            if method.aligned:
                images[1] = on_grid_of(fixed, moving, images[1])
            pair = method.prepared("fixed", images[0]), method.prepared("moving", images[1])
            del images
        found = method.run(*pair, stages)
    displacement = found.displacement.cpu()
    if not method.aligned:
        displacement = _on_fixed_grid(displacement, fixed, moving)
    entropy = None if found.entropy is None else found.entropy.cpu()
    return Registration(displacement, fixed, moving, stages.seconds, method.options, entropy)


def _on_fixed_grid(field: Tensor, fixed: Volume, moving: Volume) -> Tensor:
    """From where fixed voxels go in moving, less their own index, to the displacement in voxels of the fixed grid."""
    ndim = field.shape[1]
    matrix = torch.from_numpy(voxel_to_voxel(fixed.affine, moving.affine, ndim)).to(field)
    back = torch.linalg.inv(matrix[:, :ndim])
    axes = torch.meshgrid(*(torch.arange(s).to(field) for s in field.shape[2:]), indexing="ij")
    places = torch.stack(axes).flatten(1)
    reached: Tensor = back @ (places + field[0].flatten(1) - matrix[:, ndim:])
    return (reached - places).view(field.shape)
