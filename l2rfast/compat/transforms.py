"""Transforms of SimpleITK, antspyx and nitransforms as `l2rfast.world`'s, and back: one call each.

All of them go from places of fixed to places of moving; SimpleITK's and antspyx's world is LPS, which is seen to. The
libraries are imported where they are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..io import read_grid, read_transform
from ..io.reading import library
from ..io.transforms import x5
from ..io.transforms.format import Grids
from ..io.transforms.itk import hdf5
from ..io.transforms.itk.stored import Stored, composite, stored_of, transform_of
from ..world import Composite, Transform, compose

_FIELD = "DisplacementFieldTransform"


def from_simpleitk(transform: Any, fixed: Any = None) -> Transform:
    """Of a ``SimpleITK.Transform``, of two or three axes.

    Args:
        transform: linear, a displacement field, a B-spline, or a composite of these.
        fixed: the image at whose voxels B-splines are evaluated, see `l2rfast.io.read_grid`.

    Raises:
        InputError: another transform, or a B-spline without fixed.
    """
    parts = _listed(transform)
    grids = Grids(None if fixed is None else read_grid("fixed", fixed))
    with _understood():
        return transform_of([composite(parts), *parts], grids) if parts else compose()


def _listed(transform: Any) -> list[Stored]:
    if not hasattr(transform, "Downcast"):
        raise InputError(f"transform: expected a SimpleITK.Transform, got {type(transform).__name__}")
    sitk = library("transform", "SimpleITK", "a transform of SimpleITK's")
    transform = transform.Downcast()
    name, ndim = transform.GetName(), transform.GetDimension()
    if name == "CompositeTransform":
        return [
            each for n in range(transform.GetNumberOfTransforms()) for each in _listed(transform.GetNthTransform(n))
        ]
    if name == "Transform" and transform.GetTransformEnum() == sitk.sitkIdentity:
        return []
    if name == _FIELD:
        numbers = sitk.GetArrayFromImage(transform.GetDisplacementField()).ravel()
    else:
        numbers = np.array(transform.GetParameters())
    return [Stored(f"{name}_double_{ndim}_{ndim}", numbers, np.array(transform.GetFixedParameters()))]


def to_simpleitk(transform: Transform, ndim: int = 3) -> Any:
    """As a ``SimpleITK.Transform``: an affine map, a displacement field, or a composite of these.

    Args:
        transform: a chain stays one.
        ndim: axes of the images in SimpleITK; of two, which are the first of the world's.

    Raises:
        InputError: SimpleITK is not installed.
    """
    sitk = library("transform", "SimpleITK", "a transform of SimpleITK's")
    found = []
    for part in stored_of(transform, ndim):
        if part.kind.startswith(_FIELD):
            size, origin, spacing = part.fixed[: 3 * ndim].reshape(3, ndim)
            numbers = part.parameters.reshape(*size[::-1].astype(int), ndim).astype(np.float64)
            image = sitk.GetImageFromArray(numbers, isVector=True)
            image.SetOrigin(origin.tolist())
            image.SetSpacing(spacing.tolist())
            image.SetDirection(part.fixed[3 * ndim :].tolist())
            found.append(sitk.DisplacementFieldTransform(image))
        else:
            found.append(sitk.AffineTransform(ndim))
            found[-1].SetParameters(part.parameters.tolist())
    return found[0] if len(found) == 1 else sitk.CompositeTransform(found)


def from_antspyx(transform: Any) -> Transform:
    """Of an ``ants.ANTsTransform``, which goes by way of a file: its library tells no part of a composite.

    Raises:
        InputError: a transform that is neither linear nor a displacement field, nor a composite of these; or antspyx is
            not installed.
    """
    ants = library("transform", "ants", "a transform of antspyx")
    if not isinstance(transform, ants.ANTsTransform):
        raise InputError(f"transform: expected an ants.ANTsTransform, got {type(transform).__name__}")
    with TemporaryDirectory() as folder:
        ants.write_transform(transform, f"{folder}/transform.h5")
        return read_transform(f"{folder}/transform.h5", format="itk")


def to_antspyx(transform: Transform, ndim: int = 3) -> Any:
    """As an ``ants.ANTsTransform``; see `to_simpleitk`. It is of single precision, as antspyx' own.

    Raises:
        InputError: antspyx is not installed.
    """
    ants = library("transform", "ants", "a transform of antspyx")
    with TemporaryDirectory() as folder:
        hdf5.store(Path(folder, "transform.h5"), stored_of(transform, ndim))
        return ants.read_transform(f"{folder}/transform.h5")


def from_nitransforms(transform: Any) -> Transform:
    """Of an ``Affine``, a ``DenseFieldTransform``, a ``BSplineFieldTransform`` that has a reference, or a
    ``TransformChain`` of nitransforms.

    Raises:
        InputError: another transform, as a series of affine maps.
    """
    if hasattr(transform, "transforms"):
        return compose(*(from_nitransforms(each) for each in transform.transforms))
    if hasattr(transform, "to_field"):
        transform = transform.to_field()
    if not hasattr(transform, "to_x5"):
        raise InputError(f"transform: expected one of nitransforms, got {type(transform).__name__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of linear maps without a reference, which need none
        node = transform.to_x5()
    domain = None if node.domain is None else [node.domain.size, node.domain.mapping]
    with _understood():
        return x5.transform_of(node.type, node.representation, node.array_length, np.asarray(node.transform), domain)


def to_nitransforms(transform: Transform) -> Any:
    """As an ``Affine``, a ``DenseFieldTransform`` or a ``TransformChain`` of nitransforms.

    Raises:
        InputError: nitransforms is not installed.
    """
    nitransforms = library("transform", "nitransforms", "a transform of nitransforms")
    if isinstance(transform, Composite):
        return nitransforms.manip.TransformChain([to_nitransforms(part) for part in transform.parts])
    if transform.matrix is not None:
        return nitransforms.linear.Affine(transform.matrix)
    grid = transform.grid
    assert grid is not None  # what is not linear and no chain has one
    vectors = np.moveaxis(transform.on(grid).vectors.float().cpu().numpy(), 0, -1)
    image: Any = nib.Nifti1Image(vectors, grid.affine)  # type: ignore[no-untyped-call]
    return nitransforms.nonlinear.DenseFieldTransform(image)


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(
            f"transform: expected a linear map, a displacement field or a chain of them, got {error}"
        ) from error
