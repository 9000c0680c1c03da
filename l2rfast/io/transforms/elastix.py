"""elastix' TransformParameters.*.txt, of versions 4.9 to 5.3.

From places of fixed to places of moving, in LPS millimetres, by ITK's numbers under names of elastix' own. Directions
stand column by column, where ITK's files have them row by row. A transform goes on from the initial one that it names,
or, by "Add", what both add to a place is added up. B-splines, and sums with them, are evaluated at the voxels of fixed,
which the file tells.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from ...errors import InputError
from ...world import Affine, Displacement, Grid, Transform
from .format import Format, Grids, head, named
from .itk.stored import Stored, composite, grid_of, transform_of

_KINDS = {
    "TranslationTransform": "TranslationTransform",
    "EulerTransform": "Euler{}DTransform",
    "SimilarityTransform": "Similarity{}DTransform",
    "AffineTransform": "AffineTransform",
    "BSplineTransform": "BSplineTransform",
    "RecursiveBSplineTransform": "BSplineTransform",
}
# What a transform would mean something else by, and what there is when it is not said.
_KNOWN = {
    "UseDirectionCosines": "true",
    "BSplineTransformSplineOrder": "3",
    "UseCyclicTransform": "false",
    "UseBinaryFormatForTransformationParameters": "false",
}
_NONE = "NoInitialTransform"
_VALUE = re.compile(r'"([^"]*)"|(\S+)')


class _Parameters(dict[str, list[str]]):
    """The values under each name of a file."""

    def text(self, name: str, default: str | None = None) -> str:
        if name not in self and default is None:
            raise ValueError(f"no {name}")
        return self[name][0] if name in self else str(default)

    def numbers(self, name: str, size: int) -> np.ndarray:
        values = self.get(name, [])
        if len(values) != size:
            raise ValueError(f"{len(values)} numbers of {name}, where {size} are expected")
        return np.array([float(value) for value in values])


def _parameters(file: Path) -> _Parameters:
    lines = re.findall(r"^\((\w+)[ \t]+(.*)\)\s*$", file.read_text(), re.MULTILINE)
    return _Parameters({name: [said or bare for said, bare in _VALUE.findall(values)] for name, values in lines})


def _knows(file: Path) -> bool:
    return named(file, (".txt",)) and re.search(rb'^\(Transform "\w+"\)', head(file, 2**16), re.MULTILINE) is not None


def _read(file: Path, grids: Grids) -> Transform:
    last = _parameters(file)
    chain, files = [last], [file.resolve()]
    while (before := _initial(chain[-1])) != _NONE:
        files.append(_beside(files[-1], before))
        if files[-1] in files[:-1]:
            raise ValueError(f"a chain that comes back to {files[-1].name}")
        chain.append(_parameters(files[-1]))
    stored, sums = [_stored(each) for each in chain], [_is_sum(each) for each in chain]
    sums[-1] = False  # which has nothing to be added to
    ndim = int(last.text("FixedImageDimension"))
    return _chained(stored, sums, grids.fixed or grid_of(_grid(last, ndim), ndim))


def _chained(stored: list[Stored], sums: list[bool], fixed: Grid) -> Transform:
    """What transforms do, of which a point goes through the last first, but for those that are added to what is behind.

    Args:
        stored: as ITK has them.
        sums: which of them are added.
        fixed: where what is not linear is evaluated.
    """
    if not any(sums):
        return transform_of([composite(stored), *stored], Grids(fixed))
    k = sums.index(True)
    before = _chained(stored[k + 1 :], sums[k + 1 :], fixed)
    total = _added(before, transform_of([stored[k]], Grids(fixed)), fixed)
    return transform_of([composite(stored[:k]), *stored[:k]], Grids(fixed), total) if k else total


def _is_sum(parameters: _Parameters) -> bool:
    """Whether what a transform and its initial one add to a place is added up; else the one goes on from the other."""
    how = parameters.text("HowToCombineTransforms", "Compose")
    if how not in ("Compose", "Add"):
        raise ValueError(f"HowToCombineTransforms {how!r}, where 'Compose' and 'Add' are known")
    return how == "Add"


def _added(one: Transform, other: Transform, fixed: Grid) -> Transform:
    """To a place what both add to it."""
    ndim = max(one.ndim, other.ndim)
    if one.matrix is not None and other.matrix is not None:
        return Affine(one.matrix + other.matrix - np.eye(4), ndim)
    return Displacement(one.on(fixed).disp + other.on(fixed).disp, fixed.affine, ndim)


def _initial(parameters: _Parameters) -> str:
    """Before 5.1 the name of it was another."""
    return parameters.text(
        "InitialTransformParameterFileName", parameters.text("InitialTransformParametersFileName", _NONE)
    )


def _beside(file: Path, name: str) -> Path:
    """A file of the same folder, by a path that begins there or, as elastix writes it, where elastix ran."""
    for start in file.parents:
        found = (start / PurePosixPath(name.replace("\\", "/"))).resolve()
        if found.is_relative_to(file.parent) and os.path.isfile(found):
            return found
    raise InputError(f"expected the transform from which {file.name} goes on in the same folder, got {name!r}")


def _stored(parameters: _Parameters) -> Stored:
    """As ITK has it."""
    for name, known in _KNOWN.items():
        if parameters.text(name, known) != known:
            raise ValueError(f"{name} {parameters.text(name)!r}, where {known!r} alone is known")
    kind, ndim = parameters.text("Transform"), int(parameters.text("FixedImageDimension"))
    if kind not in _KINDS or ndim not in (2, 3):
        raise ValueError(f"a {kind} of {ndim} axes")
    if kind.endswith("BSplineTransform"):
        fixed = _grid(parameters, ndim, "Grid")
    elif kind == "TranslationTransform":
        fixed = np.zeros(0)
    else:
        zyx = parameters.text("ComputeZYX", "false") == "true"
        fixed = np.append(parameters.numbers("CenterOfRotationPoint", ndim), [zyx] if ndim == 3 else [])
    count = int(parameters.text("NumberOfParameters"))
    name = f"{_KINDS[kind].format(ndim)}_double_{ndim}_{ndim}"
    return Stored(name, parameters.numbers("TransformParameters", count), fixed)


def _grid(parameters: _Parameters, ndim: int, start: str = "") -> np.ndarray:
    """As ITK has it, by size, origin, spacing and direction: of fixed, or by names that start so."""
    size, index, spacing, origin = (
        parameters.numbers(start + name, ndim) for name in ("Size", "Index", "Spacing", "Origin")
    )
    direction = parameters.numbers(f"{start}Direction", ndim**2).reshape(ndim, ndim).T
    return np.concatenate([size, origin + direction @ (spacing * index), spacing, direction.ravel()])


FORMAT = Format("elastix", "a transform of elastix", _knows, _read, None, (".txt",))
