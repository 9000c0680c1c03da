"""The transforms, and what can be done with them: called on points, inverted, chained, laid on a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .. import _check
from ..errors import InputError
from ..fields import integrate_velocity
from ..transforms import warp_with_gradient
from .grid import AXES, Grid, lifted
from .inverse import inverted
from .maps import Map
from .points import at_points, on_line

NEAR = 1e-3  # voxels from where an inverse leads to where it should
SAME = 1e-6  # voxels: of a grid a field is taken as it is
TRIES = 30  # of Newton's method
STEP = 4.0  # voxels: the longest of its steps, as fields are smooth over so much


class Transform(ABC):
    """From places of the fixed world to those of the moving world, in RAS millimetres; see `l2rfast.world`.

    ``transform(points)`` moves points, ``first @ then`` is none of ours: chains are made by `compose`, in the order in
    which a point goes through them.
    """

    @abstractmethod
    def __call__(self, points: Tensor) -> Tensor:
        """Where points go.

        Args:
            points: (M, 3) float64, in RAS millimetres.

        Returns:
            (M, 3) float64.
        """

    @abstractmethod
    def carried(self, map: Map) -> Map:
        """Where the voxels of a grid go after they went by a map."""

    @property
    @abstractmethod
    def inverse(self) -> Transform:
        """From moving to fixed; nothing is computed yet."""

    @property
    def matrix(self) -> np.ndarray | None:
        """(4, 4) in RAS millimetres of one that is linear; None of others."""
        return None

    @property
    def grid(self) -> Grid | None:
        """Where a field that it starts with is given; None where it starts with none."""
        return None

    @property
    def ndim(self) -> int:
        """2 of one of places in the plane of the first two axes of the world, as images of two axes have it; else 3."""
        return AXES

    def on(self, grid: Grid) -> Displacement:
        """As one displacement field at the voxels of a grid, which leads to what all of it does."""
        went = self.carried(Map.of(grid))
        disp = torch.zeros(1, AXES, *grid.size) if went.disp is None else went.disp
        away = torch.from_numpy(np.linalg.solve(grid.affine, went.frame)[:3])
        ndim = self.ndim if len(grid.shape) < AXES else AXES
        return Displacement(Map(grid.size, went.frame, disp).towards(away), grid.affine, ndim)


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """A linear map of the world.

    Attributes:
        array: (4, 4) float64, in RAS millimetres.
        ndim: see `Transform.ndim`.
    """

    array: np.ndarray
    ndim: int = AXES

    def __post_init__(self) -> None:
        array = np.asarray(self.array, np.float64)
        if array.shape != (4, 4) or not np.isfinite(array).all() or not np.array_equal(array[3], [0, 0, 0, 1]):
            raise InputError(f"array: expected a finite (4, 4) matrix whose last row is 0 0 0 1, got {array.tolist()}")
        object.__setattr__(self, "array", array)

    def __call__(self, points: Tensor) -> Tensor:
        matrix = torch.from_numpy(self.array).to(points)
        return points @ matrix[:3, :3].T + matrix[:3, 3]

    def carried(self, map: Map) -> Map:
        return map.moved(self.array)

    @property
    def invertible(self) -> bool:
        """Whether no volume is mapped to none."""
        with np.errstate(all="ignore"):  # infinite of what is huge
            return not abs(np.linalg.det(self.array[:3, :3])) < np.finfo(np.float64).tiny

    @property
    def inverse(self) -> Affine:
        if not self.invertible:
            raise InputError("transform: expected a matrix that has an inverse, got a singular one")
        return Affine(np.linalg.inv(self.array), self.ndim)

    @property
    def matrix(self) -> np.ndarray:
        return self.array


class Field(Transform):
    """A field at the voxels of a grid, linear between them; beyond them it goes on as at its border.

    Attributes:
        disp: (1, 3, D, H, W) in voxels of its own grid, the component of each axis along that axis.
        affine: (4, 4) of the grid.
    """

    disp: Tensor
    affine: np.ndarray

    @property
    def vectors(self) -> Tensor:
        """(3, D, H, W) in RAS millimetres."""
        return (_linear(self.affine, self.disp) @ self.disp[0].flatten(1)).view(self.disp.shape[1:])

    def __call__(self, points: Tensor) -> Tensor:
        voxels = _to_voxels(points, self.affine)
        return points + at_points(self.disp.to(points.dtype), voxels) @ _linear(self.affine, points).T

    def carried(self, map: Map) -> Map:
        if map.disp is None and self.grid.agrees(Grid(map.size, map.frame), SAME):
            return Map(map.size, map.frame, self.disp)
        return map.added(map.sampled(self.disp, self.affine), self.affine)

    @property
    def inverse(self) -> Transform:
        return Inverse(self)

    @property
    def grid(self) -> Grid:
        return Grid(lifted(self.disp.shape[2:]), self.affine)


@dataclass(frozen=True, eq=False)
class Displacement(Field):
    """A displacement field.

    Attributes:
        disp: (1, ndim, *spatial), floating; of a slice it has two components, and is kept as three axes of which the
            last has a length of 1.
        affine: (4, 4) of its grid.
        ndim: see `Transform.ndim`.
    """

    disp: Tensor
    affine: np.ndarray
    ndim: int = AXES

    def __post_init__(self) -> None:
        object.__setattr__(self, "disp", _of_three_axes("disp", self.disp))

    @classmethod
    def of_world(cls, vectors: Tensor, affine: np.ndarray, ndim: int = AXES) -> Displacement:
        """Of vectors (3, D, H, W) in RAS millimetres, at the voxels of a grid."""
        to = torch.from_numpy(np.linalg.inv(affine[:3, :3])).to(vectors)
        return cls((to @ vectors.flatten(1)).view(1, *vectors.shape), affine, ndim)


@dataclass(frozen=True, eq=False)
class Velocity(Field):
    """A stationary velocity field, integrated over one unit of time by scaling and squaring (Arsigny et al., MICCAI
    2006). Its inverse is that of what comes of it: integrating backwards is so but for rounding on the grid.

    Attributes:
        velocity: as `Displacement.disp`, per unit of time.
        affine: (4, 4) of its grid.
        steps: see `l2rfast.integrate_velocity`.
    """

    velocity: Tensor
    affine: np.ndarray
    steps: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "velocity", _of_three_axes("velocity", self.velocity))

    @cached_property
    def disp(self) -> Tensor:  # type: ignore[override]
        return integrate_velocity(self.velocity, self.steps)


@dataclass(frozen=True, eq=False)
class Inverse(Transform):
    """The inverse of a displacement field, found where it is asked for.

    Newton's method, begun at the inverse on the field's own grid (`l2rfast.world.inverse`). Where the field folds there
    is no inverse, or not one alone: what comes nearest is taken.

    Attributes:
        of: the field.
    """

    of: Field

    @cached_property
    def near(self) -> Displacement:
        """The inverse on the field's own grid.

        Raises:
            InputError: the field is not finite.
        """
        wrong = ~self.of.disp.isfinite().all(1)
        if wrong.any():
            raise InputError(
                f"transform: expected a field that is finite everywhere, so that it has an inverse, got one that is not"
                f" at {int(wrong.sum())} of {wrong.numel()} voxels"
            )
        return Displacement(inverted(self.of.disp), self.of.affine)

    def __call__(self, points: Tensor) -> Tensor:
        wanted = _to_voxels(points, self.of.affine)
        found = wanted + at_points(self.near.disp.to(points.dtype), wanted)
        return points + (self._refined(found, wanted) - wanted) @ _linear(self.of.affine, points).T

    def carried(self, map: Map) -> Map:
        back = map.sampled(self.near.disp, self.of.affine)
        there = map.added(back, self.of.affine)
        # What is left to do from there, in voxels of the field: where the map was, less where the field leads.
        left = back.add_(there.sampled(self.of.disp, self.of.affine)).neg_()
        off = left.square().sum(1)[0] > NEAR**2
        if not off.any():
            return there
        # A step of the fixed-point iteration does for most; the rest go one by one.
        there = there.added(torch.where(off, left, 0), self.of.affine)
        wanted, found = (_at(each, self.of.affine, off) for each in (map, there))
        more = torch.zeros_like(left)
        more[0, :, off] = (self._refined(found, wanted) - found).T.to(more)
        return there.added(more, self.of.affine)

    def _refined(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Voxels (M, 3) float64 that the field takes to those that are wanted, by steps as long as they help."""
        field, found = self.of.disp.to(found.dtype), found.clone()
        one = torch.eye(AXES, dtype=found.dtype)
        best, least = found.clone(), torch.full_like(found[:, 0], torch.inf)
        todo = torch.arange(len(found))
        for _ in range(TRIES):
            if not len(todo):
                break
            here = found[todo]
            value, slopes = on_line(lambda places: warp_with_gradient(field, places), here)
            left = wanted[todo] - here - value
            size = left.norm(dim=1)
            better = size < least[todo]
            best[todo[better]], least[todo[better]] = here[better], size[better]
            step = torch.linalg.lstsq(one + slopes, left[:, :, None]).solution[:, :, 0]
            step = step * (STEP / step.norm(dim=1, keepdim=True).clamp(min=STEP))
            found[todo] = here + torch.where(step.isfinite(), step, left)
            todo = todo[size > NEAR / 10]
        return best

    @property
    def inverse(self) -> Field:
        return self.of

    @property
    def ndim(self) -> int:
        return self.of.ndim

    @property
    def grid(self) -> Grid:
        return self.of.grid


@dataclass(frozen=True, eq=False)
class Composite(Transform):
    """Transforms one after the other.

    Attributes:
        parts: in the order in which a point of fixed goes through them. ITK and ANTs list them the other way round.
    """

    parts: tuple[Transform, ...]

    def __call__(self, points: Tensor) -> Tensor:
        for part in self.parts:
            points = part(points)
        return points

    def carried(self, map: Map) -> Map:
        for part in self.parts:
            map = part.carried(map)
        return map

    @property
    def inverse(self) -> Transform:
        return compose(*(part.inverse for part in reversed(self.parts)))

    @property
    def ndim(self) -> int:
        return max(part.ndim for part in self.parts)

    @property
    def grid(self) -> Grid | None:
        return self.parts[0].grid


def compose(*transforms: Transform) -> Transform:
    """Transforms one after the other, in the order in which a point of fixed goes through them.

    Nothing is computed but products of matrices that are neighbours; none at all is the identity.

    Args:
        transforms: each from places to places, RAS millimetres.

    Returns:
        The one, or a `Composite`.
    """
    parts: list[Transform] = []
    for transform in transforms:
        for part in transform.parts if isinstance(transform, Composite) else (transform,):
            last = parts[-1] if parts else None
            if last is not None and last.matrix is not None and part.matrix is not None:
                parts[-1] = Affine(part.matrix @ last.matrix, max(part.ndim, last.ndim))
            else:
                parts.append(part)
    parts = [part for part in parts if part.matrix is None or not np.array_equal(part.matrix, np.eye(4))]
    if not parts:
        return Affine(np.eye(4), max((transform.ndim for transform in transforms), default=AXES))
    return parts[0] if len(parts) == 1 else Composite(tuple(parts))


def within(transform: Transform, grid: Grid) -> Tensor:
    """Where all fields on the way are given, not more than one of their voxels beyond.

    Elsewhere fields go on as at their border, where ITK ends them by a jump to 0.

    Args:
        transform: that the voxels go through.
        grid: of the voxels.

    Returns:
        (D, H, W) bool, on the grid.
    """
    map, inside = Map.of(grid), torch.ones(grid.size, dtype=torch.bool)
    for part in transform.parts if isinstance(transform, Composite) else (transform,):
        if part.grid is not None and not (map.disp is None and part.grid.agrees(Grid(map.size, map.frame), SAME)):
            wider = part.grid.affine - np.pad(part.grid.affine[:, :3].sum(1)[:, None], ((0, 0), (3, 0)))
            ones = torch.ones(1, 1, *(n + 2 for n in part.grid.size))
            inside &= map.sampled(ones, wider, "nearest", "zeros")[0, 0] > 0
        map = part.carried(map)
    return inside


def _of_three_axes(name: str, field: Tensor) -> Tensor:
    ndim = _check.field(name, field)
    if len(field) != 1:
        raise InputError(f"{name}: expected a batch of one, got {len(field)}")
    return field if ndim == AXES else torch.cat([field, torch.zeros_like(field[:, :1])], 1).unsqueeze(-1)


def _linear(affine: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(affine[:3, :3]).to(like)


def _to_voxels(points: Tensor, affine: np.ndarray) -> Tensor:
    """(M, 3) in RAS millimetres to voxels of a grid."""
    back = torch.from_numpy(np.linalg.inv(affine)).to(points)
    return points @ back[:3, :3].T + back[:3, 3]


def _at(map: Map, affine: np.ndarray, chosen: Tensor) -> Tensor:
    """(M, 3) float64: where chosen voxels (D, H, W) of a map are, in voxels of another grid."""
    places = chosen.nonzero().double()
    if map.disp is not None:
        places = places + map.disp[0, :, chosen].T
    matrix = torch.from_numpy(np.linalg.solve(affine, map.frame))
    return places @ matrix[:3, :3].T + matrix[:3, 3]
