"""A transform in numbers, and those in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from .. import digital_jacobian
from ..world import Affine, Composite, Field, Inverse, Transform, Velocity


def described(transform: Transform) -> dict[str, Any]:
    """What a transform is, from places of fixed to places of moving in RAS millimetres, as JSON holds it: the
    ``parts``, in the order in which a place of fixed goes through them."""
    parts = transform.parts if isinstance(transform, Composite) else (transform,)
    return {"parts": [_linear(part) if isinstance(part, Affine) else _field(part) for part in parts]}


def in_words(content: Mapping[str, Any]) -> Iterator[str]:
    """Lines of text of what `described` says."""
    yield "places of fixed -> places of moving, in RAS millimetres; images are resampled from moving to fixed"
    parts = content["parts"]
    if len(parts) > 1:
        yield f"{len(parts)} in a row, in the order in which a place of fixed goes through them"
    for part in parts:
        yield from _linear_in_words(part) if "matrix" in part else _field_in_words(part)


def _linear(transform: Affine) -> dict[str, Any]:
    matrix = transform.array
    left, scales, right = np.linalg.svd(matrix[:3, :3])
    rotation = left @ right
    mirrored = bool(np.linalg.det(matrix[:3, :3]) < 0)
    angle = np.degrees(np.arccos(np.clip((np.trace(-rotation if mirrored else rotation) - 1) / 2, -1, 1)))
    return {
        "kind": "rigid" if np.allclose(scales, 1, atol=1e-4) else "affine",
        "degrees": float(angle),
        "mirrored": mirrored,
        "scales": scales.tolist(),
        "matrix": matrix.tolist(),
    }


def _linear_in_words(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"{part['kind']}: turns by {part['degrees']:.4g} degrees" + (", and mirrors" if part["mirrored"] else "")
    if part["kind"] == "affine":
        scales = part["scales"]
        yield f"  scales by {', '.join(f'{scale:.4g}' for scale in scales)}; volumes by {np.prod(scales):.4g}"
    for row in part["matrix"]:
        yield "  " + " ".join(f"{value:12.6g}" for value in row)


def _field(transform: Transform) -> dict[str, Any]:
    field = transform.of if isinstance(transform, Inverse) else transform
    assert isinstance(field, Field)
    length = field.vectors.norm(dim=0).double()
    return {
        "kind": "velocity field" if isinstance(field, Velocity) else "displacement field",
        "inverse": isinstance(transform, Inverse),
        "size": list(field.grid.size),
        "spacing_mm": [float(each) for each in field.grid.spacing],
        "mean_mm": float(length.mean()),
        "max_mm": float(length.max()),
        "folded": int((digital_jacobian(field.disp) <= 0).sum()),
        "voxels": length.numel(),
        "finite": bool(torch.isfinite(length).all()),
    }


def _field_in_words(part: Mapping[str, Any]) -> Iterator[str]:
    size, spacing = (" x ".join(f"{n:.4g}" for n in part[name]) for name in ("size", "spacing_mm"))
    yield f"{'the inverse of a ' if part['inverse'] else ''}{part['kind']} of {size} voxels of {spacing} mm"
    yield f"  moves by {part['mean_mm']:.4g} mm on average, {part['max_mm']:.4g} mm at most"
    yield f"  {part['folded']} of {part['voxels']} voxels fold" + ("" if part["finite"] else "; not finite")
