"""ANTs by antspyx: SyN with cross-correlation (Avants et al., MedIA 2008), with and without an affine before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from l2rfast.io import Volume, read_displacement, read_transform

from .fields import Converted, Fields, Ready, Tool, written


def ants(kind: str, **options: Any) -> Tool:
    """``ants.registration`` of a type of transform with these options, and a radius of 4 voxels.

    Its radius must be given: the argument's default is for the bins of mutual information.
    """

    def made(fixed: Volume, moving: Volume, folder: Path) -> Ready:
        import ants

        images = [ants.image_read(name) for name in written(fixed, moving, folder)]

        def run() -> Converted:
            found = ants.registration(
                *images, kind, outprefix=f"{folder}/ants", syn_metric="CC", syn_sampling=4, **options
            )
            return lambda: converted(found)

        return run

    return made


def converted(found: dict[str, Any]) -> Fields:
    """Of what ANTs returns, and what is like it: the names of files, the affine last."""
    forward, inverse = (
        read_displacement(next(name for name in found[key] if name.endswith(".nii.gz")))[0]
        for key in ("fwdtransforms", "invtransforms")
    )
    fields = Fields(forward, inverse, warped=torch.from_numpy(found["warpedmovout"].numpy()))
    for name in found["fwdtransforms"]:
        if name.endswith(".mat"):
            fields.matrix = read_transform(name).matrix
    return fields
