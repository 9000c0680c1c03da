"""What every method of registration is to those who apply it, and the images on the grid that it works on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast import affine_warp, compose, warp
from l2rfast.errors import InputError
from l2rfast.io import Volume, voxel_to_voxel

from .initial import NO_CHANGE, Initial
from .intensities import robust_range, without_strays
from .stages import Stages

DEFORMABLE = "deformable"


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

    def warp(
        self, moving: Tensor, *, mode: str = "linear", displaced: bool = True, outside: float | None = None
    ) -> Tensor:
        """Resample moving, or its labels, to the fixed grid, interpolating once.

        Args:
            moving: (D, H, W) or (H, W) on the grid of the moving image; any floating dtype, or integers with
                ``"nearest"``.
            mode: ``"linear"`` or ``"nearest"``.
            displaced: with the displacement field, or through the affines alone, as before the registration.
            outside: what there is where moving does not reach. When None, 0 with ``"nearest"``, as for labels, and
                with ``"linear"`` the least of `methods.intensities.robust_range`: air, in CT. With ``"linear"`` moving
                fades to it over the voxel beyond its border; with ``"nearest"`` it ends half a voxel beyond.

        Returns:
            The same on the grid of the fixed image, in moving's dtype.

        Raises:
            InputError: another shape than moving's, or a value for the outside that its dtype cannot hold.
        """
        if moving.shape != self.moving.data.shape:
            raise InputError(
                f"moving: expected the shape of the moving image, {tuple(self.moving.data.shape)}, "
                f"got {tuple(moving.shape)}"
            )
        if outside is None:
            outside = 0.0 if mode == "nearest" else robust_range(moving)[0]
        if not math.isfinite(outside) or not _holds(moving.dtype, outside):
            raise InputError(f"outside: expected a number that {moving.dtype} holds, got {outside}")
        if outside == 0:
            return self._sampled(moving, mode, displaced)
        # Outside is where zeros are; in float64, in which the difference is exact.
        return self._sampled(moving.double() - outside, mode, displaced).add_(outside).to(moving.dtype)

    def covered(self, *, displaced: bool = True) -> Tensor:
        """Where fixed voxels come from between moving's voxels, with nothing of the outside: bool, (*fixed)."""
        ones = torch.ones(self.moving.data.shape, dtype=torch.float32, device=self.displacement.device)
        return self._sampled(ones, "linear", displaced) > 1 - 1e-5

    def _sampled(self, moving: Tensor, mode: str, displaced: bool) -> Tensor:
        """Zeros outside."""
        u, image = self.displacement, moving[None, None].to(self.displacement.device)
        return _through(image, self.matrix, u.shape[2:], u if displaced else None, mode, "zeros")[0, 0]


def _through(
    image: Tensor, matrix: np.ndarray, size: Sequence[int], disp: Tensor | None, mode: str, padding: str
) -> Tensor:
    """An image sampled at matrix (x + disp(x)) for every voxel x of a grid of that size."""
    m = torch.from_numpy(matrix).to(image.device, torch.float32)
    if disp is None:
        return affine_warp(image, m[None], size, mode=mode, padding=padding)
    axes = [torch.arange(s, dtype=torch.float32, device=disp.device) for s in size]
    grid = torch.meshgrid(*axes, indexing="ij")
    # From where fixed voxel x is sampled in moving, less x: separate products and sums round the same for
    # any number of threads.
    total = torch.empty_like(disp)
    ndim = len(grid)
    for k in range(ndim):
        component = total[0, k]
        component.copy_(-grid[k]).add_(float(m[k, ndim]))
        for j in range(ndim):
            component.add_((grid[j] + disp[0, j]).mul_(float(m[k, j])))
    return warp(image, total, mode=mode, padding=padding)


def _holds(dtype: torch.dtype, value: float) -> bool:
    if dtype.is_floating_point:
        return abs(value) <= torch.finfo(dtype).max
    least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return float(value).is_integer() and least <= value <= most


class Pair(NamedTuple):
    """Two images as a method takes them.

    Attributes:
        fixed, moving: (1, 1, *spatial) float32, moving on the grid of fixed where the method is ``aligned``: where it
            does not reach, its border repeats.
        spacing: of fixed's voxels along each axis, in mm.
        covered: (1, 1, *spatial) float32, 1 where moving reaches and 0 where not; None where it reaches everywhere.
    """

    fixed: Tensor
    moving: Tensor
    spacing: tuple[float, ...]
    covered: Tensor | None = None


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
            What moving does not cover says nothing about the field.
        aligned: whether the affines are trusted to bring the images near each other.
        transform: ``"deformable"``, or the kind of start, ``"rigid"`` or ``"affine"``, to which it adds nothing.
    """

    options: dict[str, Any]
    prepared: Callable[[str, Tensor], Tensor]
    run: Callable[[Pair, Stages], Found]
    aligned: bool = True
    transform: str = DEFORMABLE


def on_grid_of(
    fixed: Volume,
    moving: Volume,
    data: Tensor,
    *,
    start: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
) -> Tensor:
    """What lies on moving's grid at the voxels of the fixed image, through both affines.

    Args:
        fixed, moving: the images whose grids they are.
        data: (N, C, *moving).
        start: (1, ndim, *fixed), in voxels of fixed: a displacement before the affines.
        mode, padding: as in `l2rfast.affine_warp`.

    Returns:
        (N, C, *fixed) in the dtype of data, and on its device.
    """
    matrix = voxel_to_voxel(fixed.affine, moving.affine, fixed.data.ndim)
    return _through(data, matrix, fixed.data.shape, start, mode, padding)


def image_on_grid_of(fixed: Volume, moving: Volume, device: torch.device, start: Tensor | None = None) -> Tensor:
    """Moving's image at the voxels of the fixed one, its border repeated: (1, 1, *fixed). See `on_grid_of`.

    Where it has to be interpolated it is `without_strays`, as those would spread.
    """
    data, matrix = moving.data[None, None].to(device), voxel_to_voxel(fixed.affine, moving.affine, fixed.data.ndim)
    still = start is None and fixed.data.shape == moving.data.shape
    if still and np.allclose(matrix, np.eye(*matrix.shape), rtol=0, atol=1e-6):
        return data
    return on_grid_of(fixed, moving, without_strays(data), start=start)


def apply(
    method: Method,
    fixed: Volume,
    moving: Volume,
    device: torch.device,
    stages: Stages,
    start: Tensor | None = None,
) -> Registration:
    """Register a moving image to a fixed one.

    Args:
        method: its options chosen.
        fixed, moving: as the method takes them.
        device: where to compute.
        stages: times it.
        start: (1, ndim, *fixed), in voxels of fixed, for a method that is ``aligned``: the displacement to go on from,
            which the one that is found includes.

    Raises:
        InputError: images that the method cannot take, or that do not overlap where that counts.
    """
    with torch.no_grad():
        with stages.stage("resampling"):
            if method.aligned:
                start = None if start is None else start.to(device)
                covered = _covered(fixed, moving, device, start)
                image = image_on_grid_of(fixed, moving, device, start)
            else:
                covered, image = None, moving.data[None, None].to(device)
            prepared = (
                method.prepared("fixed", fixed.data[None, None].to(device)),
                method.prepared("moving", image),
            )
            pair = Pair(*prepared, fixed.spacing, covered)
            del image, prepared
        found = method.run(pair, stages)
    displacement = (found.displacement if start is None else compose(start, found.displacement)).cpu()
    if not method.aligned:
        displacement = _on_fixed_grid(displacement, fixed, moving)
    entropy = None if found.entropy is None else found.entropy.cpu()
    options = {"transform": method.transform, **method.options}
    return Registration(displacement, fixed, moving, stages.seconds, options, entropy)


def _covered(fixed: Volume, moving: Volume, device: torch.device, start: Tensor | None) -> Tensor | None:
    """See `Pair`."""
    ones = torch.ones(1, 1, *moving.data.shape, dtype=torch.bool, device=device)
    covered = on_grid_of(fixed, moving, ones, start=start, mode="nearest", padding="zeros")
    if covered.all():
        return None
    if not covered.any():
        raise InputError("moving: expected an image that overlaps the fixed one, but it lies elsewhere")
    return covered.float()


def _on_fixed_grid(field: Tensor, fixed: Volume, moving: Volume) -> Tensor:
    """From where fixed voxels go in moving, less their own index, to the displacement in voxels of the fixed grid."""
    ndim = field.shape[1]
    matrix = torch.from_numpy(voxel_to_voxel(fixed.affine, moving.affine, ndim)).to(field)
    back = torch.linalg.inv(matrix[:, :ndim])
    axes = torch.meshgrid(*(torch.arange(s).to(field) for s in field.shape[2:]), indexing="ij")
    places = torch.stack(axes).flatten(1)
    reached: Tensor = back @ (places + field[0].flatten(1) - matrix[:, ndim:])
    return (reached - places).view(field.shape)
