"""NiftyReg's transforms: affine maps as text, fields and grids of control points as NIfTI.

All go from the reference image, here fixed, to the floating one, in RAS millimetres. What a NIfTI file holds stands in
``intent_p1``, beside the name NREG_TRANS and the intent of vectors, 1007: ITK takes them for its own and for LPS.
Places (kinds 0, 2, 3, 5, 6) or displacements (1, 4), of what they lead to (0, 1, 2, 6) or as a velocity (3, 4, 5) that
is integrated by as many squarings as ``intent_p2`` says, backwards where that is below 0; at voxels or at control
points (2, 5 cubic B-splines, 6 linear), behind the last of which come more of the same displacement. Where extensions
of the header hold affine maps, a place goes through the first before the control points and through the second after
them (`reg_f3d -vel -aff`). Seen of NiftyReg 1.5.70; what is beyond control points stands in its sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...world import Affine, Displacement, Field, Grid, Transform, Velocity, compose
from ...world.maps import Map
from ..displacements import NIFTYREG, in_voxels
from ..nifti import NIFTI, open_nifti, write_volumes
from ..source import read_values
from .format import Format, Grids, is_four_rows, less_places, linear, named, rows_of_four, sform_first, write_rows
from .spline import Spline

_PLACES, _VELOCITIES = (0, 2, 3, 5, 6), (3, 4, 5)
_CUBIC, _LINEAR = (2, 5), 6  # between control points
_MOST = 30  # squarings: more are none that anybody asked for
_LONGEST = 0.28  # mm along an axis of one of the steps that are squared, where their number is not given


def _knows(file: Path) -> bool:
    if named(file, NIFTI):
        header: Any = open_nifti(str(file), file).header
        return bool(header["intent_name"] == NIFTYREG)
    return is_four_rows(file)


def _read(file: Path, grids: Grids) -> Transform:
    if not named(file, NIFTI):
        rows = rows_of_four(file)
        if rows is None:
            raise ValueError("no four rows of four numbers")
        return Affine(rows)
    image: Any = open_nifti(str(file), file)
    name, kind, steps = (image.header[each].item() for each in ("intent_name", "intent_p1", "intent_p2"))
    if name != NIFTYREG or kind not in range(7) or not abs(steps) <= _MOST:
        raise ValueError(f"intent_name {name!r}, intent_p1 {kind:g} and intent_p2 {steps:g}")
    if image.shape[3:] != (1, 3) and image.shape[2:] != (1, 1, 2):
        raise ValueError(f"the shape {image.shape}")
    affine, kind, steps = sform_first(image, "NiftyReg"), int(kind), int(steps)
    stored = read_values(str(file), image, scaled=True)[..., 0, :].movedim(-1, 0)
    values = torch.cat([stored, torch.zeros(3 - len(stored), *stored.shape[1:])])
    if kind in _PLACES:
        values[: len(stored)] = less_places(values, affine)[: len(stored)]
    first, second = _maps(image)
    if kind in (*_CUBIC, _LINEAR):
        fixed = grids.need("fixed", "the voxels are where control points are evaluated")
        return compose(_field(values, affine, fixed, first, kind, steps), Affine(second))
    if image.header.extensions:
        raise ValueError("a field with affine maps in extensions of its header")
    return _integrated(values, affine, steps) if kind in _VELOCITIES else Displacement.of_world(values, affine)


def _field(points: Tensor, affine: np.ndarray, fixed: Grid, first: np.ndarray, kind: int, steps: int) -> Field:
    """Of (3, *control points) in mm, at the voxels of fixed after these went by a first map."""
    frame = first @ fixed.affine
    values, map = points.double()[None], Map(fixed.size, frame)
    cubic = kind in _CUBIC
    vectors = (Spline(values, affine, "replicate").vectors(map) if cubic else map.sampled(values, affine).float())[0]
    still = np.array_equal(first, np.eye(4))
    if kind in _VELOCITIES:
        integrated = _integrated(vectors, fixed.affine, steps)
        if still:
            return integrated
        vectors = integrated.vectors
    if not still:
        vectors = less_places(vectors, fixed.affine - frame)
    return Displacement.of_world(vectors, fixed.affine)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    if not named(file, NIFTI):
        write_rows(file, linear(transform, "a file of text"))
        return
    grid: Grid | None = grids.fixed or transform.grid
    if grid is None:
        raise InputError("fixed: expected the fixed image, at whose voxels the field is written")
    vectors = transform.on(grid).vectors.float().permute(1, 2, 3, 0).unsqueeze(3).numpy()
    more: dict[str, float | bytes] = {"intent_code": 1007, "intent_name": NIFTYREG, "intent_p1": 1}
    write_volumes(file, [vectors], vectors.shape, vectors.dtype, grid.affine, more=more)


FORMAT = Format(
    "niftyreg", "a transform of NiftyReg, from place of fixed to place of moving in RAS mm", _knows, _read, _write,
    (".nii.gz", ".nii", ".txt"),
)  # fmt: skip


def _maps(image: Any) -> list[np.ndarray]:
    """The (4, 4) maps that stand in extensions of the header, in its order of bytes; where there are none they do
    nothing.
    """
    dtype = np.dtype(np.float32).newbyteorder(image.header.endianness)
    contents = [extension.get_content().ljust(64, b"\0")[:64] for extension in image.header.extensions[:2]]
    found = [np.frombuffer(content, dtype).reshape(4, 4).astype(np.float64) for content in contents]
    return [*found, np.eye(4), np.eye(4)][:2]


def _integrated(velocity: Tensor, affine: np.ndarray, steps: int) -> Velocity:
    """Of (3, D, H, W) in mm. Without a number of steps NiftyReg finds one, of at least 6."""
    number = abs(steps) or max(6, int(np.ceil(np.log2(max(velocity.abs().max().item(), _LONGEST) / _LONGEST))))
    return Velocity(in_voxels(velocity if steps >= 0 else -velocity, affine, np.eye(3)), affine, number)
