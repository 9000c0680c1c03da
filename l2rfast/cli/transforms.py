"""``l2rfast invert``, ``compose``, ``convert``, ``jacobian`` and ``describe``: transforms in files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, notice
from .answer import Answer
from .shared_options import Memory, tell_unused

INVERSE = "inverse:"

Format = Annotated[
    str | None, typer.Option("--to", help="Format of the file: see docs/reference/transforms.md. By default ITK's.")
]
Fixed = Annotated[Path | None, typer.Option(help="Image whose places the transform takes to those of moving.")]
Moving = Annotated[Path | None, typer.Option(help="Image that it resamples to fixed.")]
Out = Annotated[Path, typer.Option(help="File to write.")]
One = Annotated[str, typer.Argument(help="[inverse:][FORMAT:]FILE")]


def parse_transforms(values: Sequence[str], fixed: Any = None, moving: Any = None, name: str = "--transform") -> Any:
    """The transform that goes through several in the order in which they are given.

    Args:
        values: ``[inverse:][FORMAT:]PATH`` each.
        fixed, moving: between which all of them go together; of an inverse they change places.
        name: of the option, for messages.

    Returns:
        A `l2rfast.world.Transform`.

    Raises:
        InputError: one cannot be read.
    """
    from ..io import TRANSFORMS, read_transform
    from ..world import compose

    parts = []
    for value in values:
        turned, format, path = value.startswith(INVERSE), None, value.removeprefix(INVERSE)
        before, colon, after = path.partition(":")
        if colon and before in TRANSFORMS:
            format, path = before, after
        elif colon and before.isidentifier() and not os.path.exists(path):
            raise InputError(f"{name}: expected one of the formats {', '.join(TRANSFORMS)}, got {before!r}")
        with _between(turned):
            grids = (moving, fixed) if turned else (fixed, moving)
            read = read_transform(path, format=format, fixed=grids[0], moving=grids[1], name=name)
        parts.append(read.inverse if turned else read)
    return compose(*parts)


@contextmanager
def _between(turned: bool) -> Iterator[None]:
    """Where an inverse changes fixed and moving, it is the other that the user has to give where one is wanting."""
    try:
        yield
    except InputError as error:
        if not turned:
            raise
        raise InputError(re.sub(r"\b(fixed|moving): expected the \1 image", _other, str(error))) from error


def _other(found: re.Match[str]) -> str:
    name = "moving" if found[1] == "fixed" else "fixed"
    return f"{name}: expected the {name} image"


def invert(transform: One, out: Out, format: Format = None, fixed: Fixed = None, moving: Moving = None) -> Answer:
    """Write the inverse of a transform, which goes from moving to fixed; a field at the voxels of moving, if given."""
    inverse = parse_transforms([transform], fixed, moving, "transform").inverse
    with _between(turned=True):
        return _write(out, inverse, format, moving, fixed)


def compose(
    transforms: Annotated[list[str], typer.Argument(help="In the order in which a point of fixed goes through them.")],
    out: Out,
    format: Format = None,
    fixed: Fixed = None,
    moving: Moving = None,
) -> Answer:
    """Write several transforms as one."""
    return _write(out, parse_transforms(transforms, fixed, moving, "transforms"), format, fixed, moving)


def convert(transform: One, out: Out, format: Format = None, fixed: Fixed = None, moving: Moving = None) -> Answer:
    """Write a transform in the format of another tool."""
    return _write(out, parse_transforms([transform], fixed, moving, "transform"), format, fixed, moving)


def jacobian(
    transform: One,
    out: Out,
    fixed: Fixed = None,
    moving: Moving = None,
    log: Annotated[bool, typer.Option("--log/--no-log", help="The logarithm of the determinant, or itself.")] = True,
    memory: Memory = None,
) -> Answer:
    """Write the local change of volume, of moving over fixed, at the voxels of fixed, or of the field."""
    from .. import jacobian_determinant
    from ..io import Volume, read_grid, write_image, zarr
    from ..io.grids import FIELD
    from ..io.nifti import check_suffix
    from ..io.reading import check_memory
    from ..methods.blocks.jacobian import logarithm
    from ..output import written_whole

    read = parse_transforms([transform], fixed, moving, "transform")
    if zarr.is_zarr(out):
        return _jacobian_in_blocks(read, out, fixed, log, memory)
    grid = read.grid if fixed is None else read_grid("fixed", fixed)
    if grid is None:
        raise InputError("fixed: expected the fixed image, at whose voxels it is written")
    check_memory("fixed", FIELD * math.prod(grid.size))
    change = jacobian_determinant(read.on(grid).disp)[0]
    folded = int((change <= 0).sum())
    if log:
        change = logarithm(change)
    check_suffix(out)
    tell_unused(out, memory)
    with written_whole(out) as part:
        write_image(part, Volume(change, grid.affine))
    return _jacobian(out, folded, change.numel())


def _jacobian_in_blocks(field: Any, out: Path, fixed: Path | None, log: bool, memory: str | None) -> Answer:
    import numpy as np

    from ..io import read_grid, zarr
    from ..methods.blocks.jacobian import jacobian
    from ..methods.cohort.memory import room

    if not isinstance(field, zarr.StoredField):
        raise InputError(f"transform: expected one displacement field in .zarr for {out}, as it is written in blocks")
    if fixed is not None and not field.grid.agrees(read_grid("fixed", fixed)):
        raise InputError(f"fixed: expected none, or an image on the grid of the field, for {out}")
    with zarr.written(out, [field.grid], np.dtype(np.float32), field.level.units) as (array,):
        folded = jacobian(field, array, log=log, memory=room(memory))
    return _jacobian(out, folded, array.size)


def _jacobian(out: Path, folded: int, voxels: int) -> Answer:
    if folded:
        notice(f"{out}: the transform folds at {folded} of {voxels} voxels")
    return Answer({"out": out, "folded": folded, "voxels": voxels}, str(out))


def describe(transform: One, fixed: Fixed = None, moving: Moving = None) -> Answer:
    """Say what a transform is: from where to where, by how much, and whether it folds."""
    from .description import described, in_words

    content = described(parse_transforms([transform], fixed, moving, "transform"))
    return Answer(content, "\n".join(in_words(content)))


def _write(out: Path, transform: Any, format: str | None, fixed: Path | None, moving: Path | None) -> Answer:
    from ..io import write_transform

    write_transform(out, transform, format=format, fixed=fixed, moving=moving)
    return Answer({"out": out}, str(out))
