"""What the numbers of ITK's transforms mean: place of fixed -> place of moving, in LPS millimetres."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from ...world import Affine, Displacement, Transform
from ..displacements import LPS


class Stored(NamedTuple):
    """A transform as a file has it.

    Attributes:
        kind: ITK's name, with the type of its numbers and its dimensions: ``AffineTransform_double_3_3``.
        parameters, fixed: its numbers, in float64.
    """

    kind: str
    parameters: np.ndarray
    fixed: np.ndarray


# Linear part and translation, of the parameters and the fixed ones behind the centre.
_Parts = tuple[np.ndarray, np.ndarray]


def transform_of(stored: Stored) -> Transform:
    """A linear map or a displacement field.

    Raises:
        ValueError: of a kind that has neither, or with other numbers than its kind has.
    """
    name, *rest = stored.kind.split("_")
    if name not in (*_LINEAR, "DisplacementFieldTransform") or rest[-2:] not in (["3", "3"], ["2", "2"]):
        raise ValueError(f"a {stored.kind}")
    ndim = int(rest[-1])
    if name == "DisplacementFieldTransform":
        return _field(stored, ndim)
    linear, translation = _LINEAR[name](stored.parameters, stored.fixed, ndim)
    centre = np.zeros(ndim) if name == "TranslationTransform" or not stored.fixed.size else stored.fixed[:ndim]
    matrix, flip = np.eye(4), LPS[:ndim, :ndim]
    matrix[:ndim, :ndim] = flip @ linear @ flip
    matrix[:ndim, 3] = flip @ (centre + translation - linear @ centre)
    return Affine(matrix)


def _field(stored: Stored, ndim: int) -> Displacement:
    """Size, origin, spacing and direction are its fixed numbers; of the others a vector's components are neighbours,
    and then voxels along the first axis.
    """
    size, origin, spacing = stored.fixed[: 3 * ndim].reshape(3, ndim)
    direction = stored.fixed[3 * ndim :].reshape(ndim, ndim)
    affine, flip = np.eye(4), LPS[:ndim, :ndim]
    affine[:ndim, :ndim], affine[:ndim, 3] = flip @ direction * spacing, flip @ origin
    vectors = np.zeros((3, *size.astype(int), *[1] * (3 - ndim)), np.float32)
    vectors[:ndim] = stored.parameters.reshape(*size[::-1].astype(int), ndim).T.reshape(ndim, *vectors.shape[1:])
    vectors[:2] *= -1
    return Displacement.of_world(torch.from_numpy(vectors), affine)


def _affine(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    return numbers[: ndim**2].reshape(ndim, ndim), numbers[ndim**2 :].reshape(ndim)


def _euler(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    """About x, y and z, of which by default y comes first, then x, then z."""
    if ndim == 2:
        return _turned(numbers[0]), numbers[1:].reshape(2)
    x, y, z = numbers[:3]
    order, angles = ("xyz", [x, y, z]) if fixed.size > 3 and fixed[3] else ("yxz", [y, x, z])
    return Rotation.from_euler(order, angles).as_matrix(), numbers[3:].reshape(3)


def _versor(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    vector = numbers[:3]
    real = np.sqrt(max(0.0, 1 - vector @ vector))
    return Rotation.from_quat([*vector, real]).as_matrix(), numbers[3:].reshape(3)


def _similarity(numbers: np.ndarray, fixed: np.ndarray, ndim: int) -> _Parts:
    if ndim == 2:
        return numbers[0] * _turned(numbers[1]), numbers[2:].reshape(2)
    linear, translation = _versor(numbers[:-1], fixed, ndim)
    return numbers[-1] * linear, translation


def _turned(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


_LINEAR: dict[str, Callable[[np.ndarray, np.ndarray, int], _Parts]] = {
    **dict.fromkeys(("AffineTransform", "MatrixOffsetTransformBase"), _affine),
    **dict.fromkeys(("Euler3DTransform", "Euler2DTransform", "Rigid2DTransform"), _euler),
    "VersorRigid3DTransform": _versor,
    **dict.fromkeys(("Similarity3DTransform", "Similarity2DTransform"), _similarity),
    "TranslationTransform": lambda numbers, fixed, ndim: (np.eye(ndim), numbers.reshape(ndim)),
    "IdentityTransform": lambda numbers, fixed, ndim: (np.eye(ndim), np.zeros(ndim)),
}
