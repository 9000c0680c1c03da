"""What the numbers of ITK's transforms mean, both ways: place of fixed -> place of moving, in LPS millimetres."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ....errors import notice
from ....world import Affine, Composite, Displacement, Grid, Transform, compose
from ..format import LPS, Grids
from ..spline import Spline


class Stored(NamedTuple):
    """A transform as a file has it.

    Attributes:
        kind: ITK's name, with the type of its numbers and its dimensions: ``AffineTransform_double_3_3``.
        parameters, fixed: its numbers.
    """

    kind: str
    parameters: np.ndarray
    fixed: np.ndarray


_NONE = np.zeros(0)
_COMPOSITE = "CompositeTransform"


def transform_of(stored: list[Stored], grids: Grids = Grids(), first: Transform | None = None) -> Transform:  # noqa: B008
    """What a list of transforms does, whose last a point goes through first.

    Args:
        stored: a composite comes before its parts.
        grids: B-splines are laid on the voxels of fixed.
        first: what a point goes through before.

    Raises:
        ValueError: one is of a kind that is not known, or has other numbers than its kind.
        InputError: fixed has to be known.
    """
    parts = [each for each in stored if not each.kind.startswith(_COMPOSITE)]
    if not parts or any(each.parameters.size for each in stored if each.kind.startswith(_COMPOSITE)):
        raise ValueError("a list without the transforms of its composite")
    if len(parts) == len(stored) > 1:
        notice(
            f"the {len(parts)} transforms of the file, which are no composite, are taken for a chain whose last comes "
            f"first, as ANTs does; SimpleITK takes the first alone"
        )
    chain = [_transform(each) for each in reversed(parts)]
    whole = compose(*chain) if first is None else compose(first, *chain)
    if any(isinstance(each, Spline) for each in chain):
        return whole.on(grids.need("fixed", "the voxels are where B-splines are evaluated"))
    return whole


def _transform(stored: Stored) -> Transform:
    name, *rest = stored.kind.split("_")
    if rest[-2:] not in (["3", "3"], ["2", "2"]):
        raise ValueError(f"a {stored.kind}")
    ndim, numbers, fixed = int(rest[-1]), stored.parameters, stored.fixed
    if name.endswith("DisplacementFieldTransform"):  # those that smooth their updates as well
        grid = grid_of(fixed, ndim)
        return Displacement.of_world(_on_grid(numbers, grid, vectors=True), grid.affine, ndim)
    if name == "BSplineTransform":
        grid = grid_of(fixed, ndim)
        if min(grid.shape) < 4:
            raise ValueError(f"{grid.shape} control points of a {stored.kind}")
        return Spline(_on_grid(numbers, grid, vectors=False)[None], grid.affine, "none")
    if not (np.isfinite(numbers).all() and np.isfinite(fixed).all()):
        raise ValueError(f"numbers that are not finite, {numbers.tolist()} and {fixed.tolist()}, for a {stored.kind}")
    centre = np.zeros(ndim) if name == "TranslationTransform" or not fixed.size else fixed[:ndim]
    if name.startswith("Centered"):
        centre, numbers = numbers[-2 * ndim : -ndim], np.append(numbers[: -2 * ndim], numbers[-ndim:])
    name = name.removeprefix("Centered")
    if name not in _LINEAR:
        raise ValueError(f"a {stored.kind}")
    linear, translation = _LINEAR[name](numbers, fixed, ndim)
    matrix, flip = np.eye(4), LPS[:ndim, :ndim]
    matrix[:ndim, :ndim] = flip @ linear @ flip
    matrix[:ndim, 3] = flip @ (centre + translation - linear @ centre)
    return Affine(matrix, ndim)


def grid_of(fixed: np.ndarray, ndim: int) -> Grid:
    """What numbers tell: the size, origin, spacing and direction, row by row.

    Raises:
        ValueError: they tell none.
    """
    if fixed.size != ndim * (3 + ndim) or not np.isfinite(fixed).all() or (fixed[:ndim] < 1).any():
        raise ValueError(f"the numbers {fixed.tolist()} for a grid of {ndim} axes")
    size, origin, spacing = fixed[: 3 * ndim].reshape(3, ndim)
    affine, flip = np.eye(4), LPS[:ndim, :ndim]
    affine[:ndim, :ndim] = flip @ fixed[3 * ndim :].reshape(ndim, ndim) * spacing
    affine[:ndim, 3] = flip @ origin
    return Grid(tuple(int(n) for n in size), affine)


def _on_grid(numbers: np.ndarray, grid: Grid, vectors: bool) -> torch.Tensor:
    """(3, D, H, W) in RAS millimetres, of numbers for every point of a grid, of which the first axis is the fastest;
    components are neighbours in a field of vectors, and come one behind the other in B-splines.
    """
    ndim, shape = len(grid.shape), grid.shape[::-1]
    if math.prod(shape) * ndim != numbers.size:
        raise ValueError(f"{numbers.size} parameters for a grid of {' x '.join(map(str, grid.shape))}")
    components = np.moveaxis(numbers.reshape(*shape, ndim), -1, 0) if vectors else numbers.reshape(ndim, *shape)
    found = np.zeros((3, *grid.size), np.float32 if vectors else np.float64)
    for k in range(ndim):
        found[k] = (components[k].T * LPS[k, k]).reshape(grid.size)
    return torch.from_numpy(found)


def stored_of(transform: Transform, ndim: int = 3) -> list[Stored]:
    """A transform as a list, whose last a point goes through first.

    Args:
        transform: linear, a field, or a chain of these.
        ndim: of the images in ITK; of two axes, which are the first of the world's.
    """
    parts = transform.parts if isinstance(transform, Composite) else (transform,)
    return [_stored(part, ndim) for part in reversed(parts)]


def composite(stored: list[Stored]) -> Stored:
    """What comes before a list of parts."""
    return Stored(f"{_COMPOSITE}_double_" + stored[0].kind.split("_", 2)[2], _NONE, _NONE)


def stored_affine(matrix: np.ndarray, ndim: int = 3) -> Stored:
    """Of a (4, 4) matrix of the world; see `stored_of`."""
    lps = LPS @ matrix @ LPS
    numbers = np.append(lps[:ndim, :ndim], lps[:ndim, 3])
    return Stored(f"AffineTransform_double_{ndim}_{ndim}", numbers, np.zeros(ndim))


def _stored(transform: Transform, ndim: int) -> Stored:
    if transform.matrix is not None:
        return stored_affine(transform.matrix, ndim)
    grid = transform.grid
    assert grid is not None  # what is not linear and no chain has one
    field = transform.on(grid).vectors[:ndim].clone()
    field[:2] *= -1
    affine = (LPS @ grid.affine)[:ndim, [*range(ndim), 3]]
    spacing = np.linalg.norm(affine[:, :ndim], axis=0)
    fixed = [grid.size[:ndim], affine[:, ndim], spacing, (affine[:, :ndim] / spacing).ravel()]
    numbers = field.reshape(ndim, *grid.size[:ndim]).float().cpu().numpy().T.ravel()
    return Stored(f"DisplacementFieldTransform_double_{ndim}_{ndim}", numbers, np.concatenate(fixed))


# Linear part and translation, of the parameters and the fixed ones behind the centre.
_Parts = tuple[np.ndarray, np.ndarray]


def _affine(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    return numbers[: ndim**2].reshape(ndim, ndim), numbers[ndim**2 :].reshape(ndim)


def _euler(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    """About x, y and z, of which by default y comes first, then x, then z."""
    if ndim == 2:
        return _turned(numbers[0]), numbers[1:].reshape(2)
    x, y, z = numbers[:3]
    order, angles = ("xyz", [x, y, z]) if fixed.size > 3 and fixed[3] else ("yxz", [y, x, z])
    from scipy.spatial.transform import Rotation  # slow to import, as all of SciPy

    return Rotation.from_euler(order, angles).as_matrix(), numbers[3:].reshape(3)


def _versor(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    vector = numbers[:3].reshape(3)
    real = np.sqrt(max(0.0, 1 - vector @ vector))
    return _by_quaternion([*vector, real]), numbers[3:].reshape(3)


def _quaternion(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    return _by_quaternion(numbers[:4]), numbers[4:].reshape(3)


def _by_quaternion(xyzw: Sequence[float] | np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    found: np.ndarray = Rotation.from_quat(xyzw).as_matrix()
    return found


def _similarity(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    if ndim == 2:
        return numbers[0] * _turned(numbers[1]), numbers[2:].reshape(2)
    linear, translation = _versor(numbers[:-1], fixed, ndim)
    return numbers[-1] * linear, translation


def _scale_versor(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    """Scales, and what else there is beside the diagonal, are added to the rotation."""
    turn, translation = _versor(numbers[:6], fixed, ndim)
    more = np.diag(numbers[6:9] - 1)
    more[~np.eye(3, dtype=bool)] = numbers[9:].reshape(6) if numbers.size > 9 else 0
    return turn + more, translation


def _compose_scale_skew(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    turn, translation = _versor(numbers[:6], fixed, ndim)
    skew = np.eye(3)
    skew[np.triu_indices(3, 1)] = numbers[9:].reshape(3)
    return turn @ np.diag(numbers[6:9]) @ skew, translation


def _turned(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


_LINEAR: dict[str, Callable[[np.ndarray, np.ndarray, int], _Parts]] = {
    **dict.fromkeys(("AffineTransform", "MatrixOffsetTransformBase", "Rigid3DTransform"), _affine),
    **dict.fromkeys(("Euler3DTransform", "Euler2DTransform", "Rigid2DTransform"), _euler),
    "VersorRigid3DTransform": _versor,
    "VersorTransform": lambda numbers, fixed, ndim: _versor(np.append(numbers, [0] * 3), fixed, ndim),
    "QuaternionRigidTransform": _quaternion,
    **dict.fromkeys(("Similarity3DTransform", "Similarity2DTransform"), _similarity),
    **dict.fromkeys(("ScaleVersor3DTransform", "ScaleSkewVersor3DTransform"), _scale_versor),
    "ComposeScaleSkewVersor3DTransform": _compose_scale_skew,
    "TranslationTransform": lambda numbers, fixed, ndim: (np.eye(ndim), numbers.reshape(ndim)),
    "ScaleTransform": lambda numbers, fixed, ndim: (np.diag(numbers.reshape(ndim)), np.zeros(ndim)),
    "IdentityTransform": lambda numbers, fixed, ndim: (np.eye(ndim), np.zeros(ndim)),
}
