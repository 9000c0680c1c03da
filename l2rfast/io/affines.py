"""Affine maps of the world in ITK's transform files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .displacements import LPS


def write_affine(path: str | os.PathLike[str], matrix: np.ndarray) -> None:
    """Write a map of the world as ITK's transform file (.txt), in LPS millimetres.

    Args:
        path: of the file.
        matrix: (4, 4), place of fixed -> place of moving, in NIfTI's RAS millimetres.

    ITK, ANTs and SimpleITK read it; in a list of transforms it comes before `write_displacement`'s field: a place of
    fixed goes through the field first.

    Raises:
        OSError: the file cannot be written.
    """
    linear, offset = LPS @ matrix[:3, :3] @ LPS, LPS @ matrix[:3, 3]
    numbers = " ".join(f"{value:.17g}" for value in [*linear.flatten(), *offset])
    text = (
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )
    Path(path).write_text(text)
