"""elastix by itk-elastix (Klein et al., IEEE TMI 2010): a B-spline by mutual information, its default parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from l2rfast.io import Volume

from .fields import Converted, Fields, Ready, of_itk, written


def elastix(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """Resampling moving linearly, as ours is compared with it: its default of order 3 changes no registration."""
    import itk

    f, m = (itk.imread(name, itk.F) for name in written(fixed, moving, folder))
    parameters = itk.ParameterObject.New()
    chosen = parameters.GetDefaultParameterMap("bspline")
    chosen["ResampleInterpolator"] = ["FinalLinearInterpolator"]
    parameters.AddParameterMap(chosen)

    def run() -> Converted:
        # As many threads as ITK's variable says: with number_of_threads=2 the process ended by a segmentation fault.
        warped, transform = itk.elastix_registration_method(f, m, parameter_object=parameters, log_to_console=False)
        return lambda: converted(warped, transform)

    def converted(warped: object, transform: object) -> Fields:
        # Into the folder, as it writes the field into the present one otherwise.
        field = itk.transformix_deformation_field(m, transform, output_directory=str(folder))
        vectors = np.asarray(field)  # (k, j, i, 3)
        return Fields(
            of_itk(vectors.transpose(2, 1, 0, 3), fixed.affine),
            warped=torch.from_numpy(np.asarray(warped).transpose(2, 1, 0).copy()),
        )

    return run
