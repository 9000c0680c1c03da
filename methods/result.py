"""What a registration found: there and back, for images, labels and points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2rfast import _check, affine_warp, compose, warp
from l2rfast.errors import InputError
from l2rfast.io import Volume, axes_in_itk, voxel_to_voxel
from l2rfast.world import Affine, Displacement, Transform, at_points
from l2rfast.world import compose as chained

from .initial import NO_CHANGE, Initial
from .intensities import robust_range
from .masks import filled


@dataclass(frozen=True, eq=False)
class Registration:
    """What a registration found.

    Attributes:
        displacement: (1, ndim, *fixed) float32, in voxels of the fixed image: fixed at x corresponds to the place x +
            disp(x) of the fixed grid, wherever that lies in the moving image.
        inverse: of the same shape and unit: what lies at y of the fixed grid in the moving image corresponds to fixed
            at y + inverse(y).
        fixed: the image as it was read, with its mask where it has one.
        moving: likewise, with the header by which it lies where the initialisation put it.
        seconds: wall time of each stage, in order.
        options: the method's options as they were used.
        entropy: (1, 1, *fixed) of the displacements, in nats, from methods that know how sure they are.
        initial: where it started: a place y of the fixed world, and what the displacement adds to it, lies at
            ``initial.matrix @ (y + displacement)`` of moving's.
    """

    displacement: Tensor
    inverse: Tensor
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

    @property
    def transform(self) -> Transform:
        """From places of fixed to those of moving, in RAS millimetres: the displacement, then ``initial.matrix``."""
        ndim = axes_in_itk(self.fixed)
        return chained(Displacement(self.displacement, self.fixed.affine, ndim), Affine(self.initial.matrix, ndim))

    @property
    def inverse_residual(self) -> float:
        """Mean distance, in voxels of fixed, from where one field after the other leads: the larger of both orders."""
        with torch.no_grad():
            pair = (self.displacement, self.inverse)
            return max(_mean_length(compose(outer, inner)) for outer, inner in (pair, pair[::-1]))

    def warp(
        self, moving: Tensor, *, mode: str = "linear", displaced: bool = True, outside: float | None = None
    ) -> Tensor:
        """Resample moving, or its labels, to the fixed grid, interpolating once.

        Args:
            moving: (D, H, W) or (H, W) on the grid of the moving image; any floating dtype, or integers with
                ``"nearest"``.
            mode: ``"linear"`` or ``"nearest"``.
            displaced: with the displacement field, or through the affines alone, as before the registration.
            outside: what there is where moving does not reach, or is NaN. When None, NaN where it has any; else 0 with
                ``"nearest"``, as for labels, and with ``"linear"`` the least of `methods.intensities.robust_range`:
                air, in CT. With ``"linear"`` moving fades to it over the voxel beyond its border; with ``"nearest"``,
                and where it or what is outside is NaN, it ends half a voxel beyond.

        Returns:
            The same on the grid of the fixed image, in moving's dtype.

        Raises:
            InputError: another shape than moving's, or a value for the outside that its dtype cannot hold.
        """
        return _resampled("moving", moving, self.moving, outside, mode, partial(self._to_fixed, displaced=displaced))

    def warp_back(
        self, fixed: Tensor, *, mode: str = "linear", displaced: bool = True, outside: float | None = None
    ) -> Tensor:
        """Resample fixed, or its labels, to the moving grid, interpolating once: as `warp`, the other way."""
        return _resampled("fixed", fixed, self.fixed, outside, mode, partial(self._to_moving, displaced=displaced))

    def points_in_moving(self, points: Tensor) -> Tensor:
        """Where points of fixed lie in moving.

        Args:
            points: (M, ndim), floating, in voxels of fixed.

        Returns:
            (M, ndim) float64, in voxels of moving. Beyond the grid the displacement is that at its border.
        """
        _check_points(points, len(self.matrix))
        there = _displaced(points.double(), self.displacement)
        matrix = torch.from_numpy(self.matrix).double()
        return there @ matrix[:, :-1].T + matrix[:, -1]

    def points_in_fixed(self, points: Tensor) -> Tensor:
        """Where points of moving lie in fixed: as `points_in_moving`, the other way."""
        back = torch.from_numpy(self._inverse_matrix).double()
        _check_points(points, len(back))
        return _displaced(points.double() @ back[:, :-1].T + back[:, -1], self.inverse)

    def covered(self, *, displaced: bool = True) -> Tensor:
        """Where fixed voxels count and come from between moving's voxels that do, with nothing of the outside: bool,
        (*fixed)."""
        size, mask = self.moving.data.shape, self.moving.mask
        there = torch.ones(size) if mask is None else mask.float()
        covered = self._to_fixed(there[None, None], "linear", displaced=displaced)[0, 0] > 1 - 1e-5
        return covered if self.fixed.mask is None else covered & self.fixed.mask

    @property
    def _inverse_matrix(self) -> np.ndarray:
        """(ndim, ndim + 1): moving voxel -> fixed voxel."""
        return voxel_to_voxel(self.moving.affine, self.fixed.affine, self.fixed.data.ndim)

    def _to_fixed(self, moving: Tensor, mode: str, *, displaced: bool) -> Tensor:
        """(1, 1, *moving) -> (1, 1, *fixed), zeros outside."""
        u = self.displacement
        return through(moving, self.matrix, u.shape[2:], u if displaced else None, mode, "zeros")

    def _to_moving(self, fixed: Tensor, mode: str, *, displaced: bool) -> Tensor:
        """(1, 1, *fixed) -> (1, 1, *moving), zeros outside."""
        size, m = self.moving.data.shape, torch.from_numpy(self._inverse_matrix).to(self.inverse)
        if not displaced:
            return affine_warp(fixed, m[None], size, mode=mode, padding="zeros")
        # From where moving voxel y is sampled in fixed, less y; rounded as in `through`.
        total = _added(affine_warp(self.inverse, m[None], size), self._inverse_matrix)
        return warp(fixed, total, mode=mode, padding="zeros")


def through(
    image: Tensor, matrix: np.ndarray, size: Sequence[int], disp: Tensor | None, mode: str, padding: str
) -> Tensor:
    """An image sampled at matrix (x + disp(x)) for every voxel x of a grid of that size.

    Args:
        image: (1, C, *spatial).
        matrix: (ndim, ndim + 1), to voxels of the image.
        disp: (1, ndim, *size), or None for nothing.
        mode, padding: as in `l2rfast.warp`.

    Returns:
        (1, C, *size).
    """
    if disp is None:
        m = torch.from_numpy(matrix).to(image.device, torch.float32)
        return affine_warp(image, m[None], size, mode=mode, padding=padding)
    if (matrix != np.eye(*matrix.shape)).any():  # from where fixed voxel x is sampled in moving, less x
        disp = _added(_turned(disp, matrix[:, :-1]), matrix)
    return warp(image, disp, mode=mode, padding=padding)


def _resampled(
    name: str, image: Tensor, volume: Volume, outside: float | None, mode: str, sample: Callable[..., Tensor]
) -> Tensor:
    """See `Registration.warp`; sample(image, mode) has zeros outside."""
    _check.tensor(name, image)
    if image.shape != volume.data.shape:
        raise InputError(
            f"{name}: expected the shape of the {name} image, {tuple(volume.data.shape)}, got {tuple(image.shape)}"
        )
    if mode == "linear" and not image.is_floating_point():
        raise InputError(f"{name}: expected a floating-point dtype with mode linear, got {image.dtype}")
    image, there = image.cpu(), ~image.cpu().isnan()
    if outside is None and not there.all():
        outside = math.nan
    elif outside is None:
        outside = 0.0 if mode == "nearest" else robust_range(image.to(_check.arithmetic_dtype(image)), volume.mask)[0]
    outside = check_outside(image.dtype, outside)
    if math.isnan(outside) or not there.all():
        whole = filled(Volume(image.double(), volume.affine, there)).data[None, None]
        reached = sample(torch.ones_like(whole), mode)
        warped = (sample(whole, mode) / reached)[0, 0].to(image.dtype)
        return torch.where(sample(there[None, None], "nearest")[0, 0], warped, outside)
    if outside == 0:
        return sample(image[None, None], mode)[0, 0]
    # Outside is where zeros are; in float64, in which the difference is exact.
    exact = image.to(torch.float64, copy=True).sub_(outside)
    return sample(exact[None, None], mode)[0, 0].add_(outside).to(image.dtype)


# Of both: separate products and sums round the same for any number of threads. What is not there costs nothing, and
# takes no digits: through the same grid a displacement stays what it is.


def _turned(disp: Tensor, linear: np.ndarray) -> Tensor:
    """The vectors of a field (1, ndim, *spatial) by a linear map."""
    total = torch.zeros_like(disp)
    for k, j in np.argwhere(linear):
        total[0, k].add_(disp[0, j] * float(linear[k, j]))
    return total


def _added(field: Tensor, matrix: np.ndarray) -> Tensor:
    """To a field (1, ndim, *spatial), in place, how far an affine map takes every voxel."""
    axes = [torch.arange(s, dtype=field.dtype, device=field.device) for s in field.shape[2:]]
    way = matrix - np.eye(*matrix.shape)
    for k, row in enumerate(way):
        field[0, k].add_(float(row[-1]))
        for j in np.flatnonzero(row[:-1]):
            field[0, k].add_((axes[j] * float(row[j])).view([-1 if i == j else 1 for i in range(len(axes))]))
    return field


def _mean_length(field: Tensor) -> float:
    """Of the vectors of a field (1, ndim, *spatial), which is used up."""
    total = torch.zeros_like(field[0, 0])
    for component in field[0]:
        total.add_(component.square_())
    return float(total.sqrt_().mean(dtype=torch.float64))


def _check_points(points: Tensor, ndim: int) -> None:
    _check.tensor("points", points)
    if points.ndim != 2 or points.shape[1] != ndim or not points.is_floating_point():
        raise InputError(
            f"points: expected floating numbers of shape (M, {ndim}), got {points.dtype} {tuple(points.shape)}"
        )


def _displaced(points: Tensor, field: Tensor) -> Tensor:
    """Points (M, ndim) float64 and what a field adds to them."""
    return points + at_points(field.double(), points)


def check_outside(dtype: torch.dtype, value: float) -> float:
    """Of an image with voxels of a dtype, what is where it does not reach, as Python's number.

    Raises:
        InputError: nothing that the dtype holds.
    """
    number: Any = _check.plain(value)
    if not isinstance(number, int | float):
        held = False
    elif dtype.is_floating_point:
        held = number != number or abs(number) <= torch.finfo(dtype).max
    else:
        least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        held = least <= number <= most and number % 1 == 0
    if not held:
        raise InputError(f"outside: expected a number that {dtype} holds, got {value!r}")
    return int(number) if isinstance(number, bool) else number
