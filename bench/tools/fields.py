"""What a registration found, as ours is: whatever conventions a tool has end here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2rfast.io import Volume, write_image
from l2rfast.io.displacements import LPS, in_voxels


@dataclass
class Fields:
    """Fixed at x corresponds to ``matrix @ (x + displacement(x))`` of moving, as in `l2rfast.methods.Registration`.

    Attributes:
        displacement: (1, 3, *fixed) float32, in voxels of fixed.
        inverse: likewise, the other way; None where the tool gives none.
        matrix: (4, 4), place of fixed -> place of moving, in RAS millimetres.
        warped: (*fixed), moving as the tool itself resamples it; None where it does not.
    """

    displacement: Tensor
    inverse: Tensor | None = None
    matrix: np.ndarray = field(default_factory=lambda: np.eye(4))
    warped: Tensor | None = None


# Made ready with what is not timed, as imports and files, a registration is a call without arguments; what that returns
# brings the result into our conventions, which is not timed either.
Converted = Callable[[], Fields]
Ready = Callable[[], Converted]
Tool = Callable[[Volume, Volume, Path], Ready]  # fixed, moving, and a folder for its files


def written(fixed: Volume, moving: Volume, folder: Path) -> tuple[str, str]:
    """Both images as NIfTI, float32 and not compressed: their names."""
    names = folder / "fixed.nii", folder / "moving.nii"
    for name, volume in zip(names, (fixed, moving), strict=True):
        write_image(name, volume)
    return str(names[0]), str(names[1])


def of_itk(vectors: np.ndarray, affine: np.ndarray) -> Tensor:
    """(*spatial, 3) in LPS millimetres, axes as in NIfTI's array -> (1, 3, *spatial) in voxels of that grid."""
    moved = np.ascontiguousarray(np.moveaxis(vectors, -1, 0), dtype=np.float32)
    return in_voxels(torch.from_numpy(moved), affine, LPS).contiguous()


def of_normalised(vectors: Tensor) -> Tensor:
    """(*spatial, 3), as `F.grid_sample` has them with aligned corners: -1 to 1, the last axis first -> ours."""
    halves = vectors.new_tensor([(n - 1) / 2 for n in vectors.shape[:-1]])
    return (vectors.flip(-1) * halves).movedim(-1, 0)[None].float().contiguous()
