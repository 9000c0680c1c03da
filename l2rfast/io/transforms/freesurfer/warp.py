"""FreeSurfer's warps as volumes (.mgz), as mri_warp_convert, SynthMorph and surfa write them.

Three components at every voxel of the target, here fixed; a fourth are labels. What they are stands behind them, in a
tag of FreeSurfer's, as surfa calls it: 0 ``abs_crs``, voxels of the source, here moving; 1 ``disp_crs``, these less the
voxel itself; 2 ``abs_ras``, RAS millimetres; 3 ``disp_ras``, these less the place of the voxel. The version in the
header is not 1, as of images, but holds an intent, 3. A volume of three components without it can be any of these, and
is none. The inverse that FreeSurfer has a number for, 4, its programs neither write nor read.
"""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from ....errors import InputError
from ....world import Displacement, Transform
from ..format import Grids, less_places, named
from .geometry import Stream, begins, known, noted, opened

SUFFIXES = (".mgz", ".mgh")

_VERSION = (3 << 8 | 1).to_bytes(4, "big")
_INVERSE = (4 << 8 | 1).to_bytes(4, "big")
_HEADER, _FLOAT = 284, 3  # bytes, and the code of its numbers
_GEOMETRY, _META, _SHEARED = 10, 13, 15  # tags
_WITHOUT_LENGTH = (1, 2, 11, 12, 20)  # tags whose ends nothing tells
_OLD_XFORM = 30  # whose length has 32 bits
_ABS_CRS, _DISP_CRS, _ABS_RAS, _DISP_RAS = range(4)


def knows(file: Path) -> bool:
    """Whether its version is of warps."""
    return begins(file) in (_VERSION, _INVERSE)


def load(file: Path, grids: Grids) -> Transform:
    """See `Format.read`."""
    with opened(file) as stream:
        if (version := stream.take(4)) != _VERSION:
            what = "its inverse" if version == _INVERSE else "an image that does not say what its components are"
            raise InputError(f"expected a warp that says in its header that it is one (intent 3), got {what}")
        *size, frames, dtype, _ = (int(number) for number in stream.numbers(">i4", 6))
        stream.take(_HEADER - 28)
        if dtype != _FLOAT or frames not in (3, 4) or min(size) < 1:
            raise ValueError(f"{frames} components of type {dtype} at {size} voxels")
        stored = stream.numbers(">f4", size[0] * size[1] * size[2] * frames).reshape(*size, frames, order="F")
        stream.take(20)  # what a scanner was set to
        kind, spacing, own = _told(stream)
    if kind not in range(4) or spacing < 1:
        raise ValueError(f"a warp of kind {kind} at every {spacing} voxels")
    fixed, moving = known(own, grids)
    affine = fixed.affine @ np.diag([spacing, spacing, spacing, 1])
    # What displacements are added to is by the number of the voxel in the file, as FreeSurfer has it, whatever spacing.
    added = np.zeros((4, 4))
    if kind == _DISP_CRS:
        added[:3, :3] = moving.affine[:3, :3]
    elif kind == _DISP_RAS:
        added = fixed.affine
    values = torch.from_numpy(stored[..., :3].astype(np.float32)).movedim(-1, 0)
    frame = moving.affine if kind in (_ABS_CRS, _DISP_CRS) else None
    return Displacement.of_world(less_places(values, affine - added, frame), affine)


def store(file: Path, transform: Transform, grids: Grids) -> None:
    """As ``disp_ras``, for which the moving image has to be known.

    Raises:
        InputError: an image is not known.
    """
    fixed, moving = grids.fixed or transform.grid, grids.need("moving", "a warp tells where the voxels lie")
    if fixed is None:
        raise InputError("fixed: expected the fixed image, at whose voxels the field is written")
    vectors = transform.on(fixed).vectors.float()
    geometry = noted(fixed)
    parts = [
        _VERSION,
        np.array([*fixed.size, 3, _FLOAT, 0], ">i4").tobytes(),
        # Whether there is a geometry, and it, without its size and a name.
        (b"\0\1" + geometry[16:-512]).ljust(_HEADER - 28, b"\0"),
        *(each.numpy().astype(">f4").tobytes("F") for each in vectors),
        bytes(20),
        np.array(_GEOMETRY, ">i4").tobytes() + noted(moving) + geometry,
        np.array([_META, 0, 12, _DISP_RAS, 1], ">i4").tobytes() + bytes(4),
    ]
    with file.open("wb") as plain, ExitStack() as stack:
        packed = stack.enter_context(gzip.GzipFile("", "wb", 6, plain, 0)) if named(file, (".mgz",)) else plain
        packed.writelines(parts)


def _told(stream: Stream) -> tuple[int, int, Grids]:
    """The kind, the number of voxels from one value to the next, and the grids of target and source."""
    kind, spacing, grids = -1, 1, Grids()
    while (tag := stream.tag()) and tag not in _WITHOUT_LENGTH:
        length = 0 if tag == _GEOMETRY else stream.number(">i4" if tag == _OLD_XFORM else ">i8")
        if tag in (_GEOMETRY, _SHEARED):
            source, target = (stream.grid(sheared=tag == _SHEARED) for _ in range(2))
            grids = Grids(target, source)
        elif tag == _META:
            kind, spacing = (int(number) for number in stream.numbers(">i4", 2))
            stream.take(length - 8)
        else:
            stream.take(length)
    return kind, spacing, grids
