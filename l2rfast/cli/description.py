"""A transform in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .. import digital_jacobian
from ..world import Affine, Composite, Field, Inverse, Transform, Velocity


def described(transform: Transform) -> Iterator[str]:
    """Lines of text."""
    yield "places of fixed -> places of moving, in RAS millimetres; images are resampled from moving to fixed"
    parts = transform.parts if isinstance(transform, Composite) else (transform,)
    if len(parts) > 1:
        yield f"{len(parts)} in a row, in the order in which a place of fixed goes through them"
    for part in parts:
        yield from _linear(part) if isinstance(part, Affine) else _field(part)


def _linear(transform: Affine) -> Iterator[str]:
    matrix = transform.array
    left, scales, right = np.linalg.svd(matrix[:3, :3])
    rotation = left @ right
    mirrored = np.linalg.det(matrix[:3, :3]) < 0
    angle = np.degrees(np.arccos(np.clip((np.trace(-rotation if mirrored else rotation) - 1) / 2, -1, 1)))
    rigid = np.allclose(scales, 1, atol=1e-4)
    yield f"{'rigid' if rigid else 'affine'}: turns by {angle:.4g} degrees" + (", and mirrors" if mirrored else "")
    if not rigid:
        yield f"  scales by {', '.join(f'{scale:.4g}' for scale in scales)}; volumes by {np.prod(scales):.4g}"
    for row in matrix:
        yield "  " + " ".join(f"{value:12.6g}" for value in row)


def _field(transform: Transform) -> Iterator[str]:
    turned = isinstance(transform, Inverse)
    field = transform.of if isinstance(transform, Inverse) else transform
    assert isinstance(field, Field)
    kind = "velocity field" if isinstance(field, Velocity) else "displacement field"
    size, spacing = (" x ".join(f"{n:.4g}" for n in values) for values in (field.grid.size, field.grid.spacing))
    length = field.vectors.norm(dim=0).double()
    folds = int((digital_jacobian(field.disp) <= 0).sum())
    yield f"{'the inverse of a ' if turned else ''}{kind} of {size} voxels of {spacing} mm"
    yield f"  moves by {float(length.mean()):.4g} mm on average, {float(length.max()):.4g} mm at most"
    yield f"  {folds} of {length.numel()} voxels fold" + ("" if bool(torch.isfinite(length).all()) else "; not finite")
