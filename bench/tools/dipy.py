"""DIPY's SyN with cross-correlation (Garyfallidis et al., Front. Neuroinform. 2014), its default iterations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from l2rfast.io import Volume
from l2rfast.io.displacements import in_voxels

from .fields import Converted, Fields, Ready


def dipy(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """A radius of 4 voxels; 100, 100 and 25 iterations at a quarter, a half and all of the resolution."""
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    f, m = (volume.data.numpy() for volume in (fixed, moving))

    def run() -> Converted:
        registration = SymmetricDiffeomorphicRegistration(metric=CCMetric(3, radius=4))
        registration.verbosity = 0
        mapping = registration.optimize(f, m, static_grid2world=fixed.affine, moving_grid2world=moving.affine)

        def ours(vectors: np.ndarray) -> torch.Tensor:  # (*spatial, 3), millimetres along the world's axes
            return in_voxels(torch.from_numpy(np.moveaxis(vectors, -1, 0).copy()), fixed.affine, np.eye(3)).contiguous()

        return lambda: Fields(
            ours(mapping.get_forward_field()),
            ours(mapping.get_backward_field()),
            warped=torch.from_numpy(np.asarray(mapping.transform(m), dtype=np.float32)),
        )

    return run
