#!/usr/bin/env bash
# The NIfTI file that DIPY's write_mapping makes has the inverse of the static image's affine in its header, so that every
# other program finds the field elsewhere; and the field that takes places of static to moving, by which transform()
# resamples moving, is the second, "backward", though a mapping's transform() is said to be forward.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q dipy==1.12.1 nibabel==5.4.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import dipy
import nibabel as nib
import numpy as np
from dipy.align import write_mapping
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import SSDMetric
from nibabel.affines import apply_affine

print("DIPY", dipy.__version__, "nibabel", nib.__version__)
affine = np.array([[3.0, 0, 0, -20], [0, 3.5, 0, 10], [0, 0, 4, 5], [0, 0, 0, 1]])
voxels = np.stack(np.meshgrid(*map(np.arange, (9, 8, 7)), indexing="ij"), -1)
static, moving = (np.exp(-((voxels - centre) ** 2).sum(-1) / 8) for centre in ((4, 4, 3), (5, 4, 3)))
mapping = SymmetricDiffeomorphicRegistration(SSDMetric(3), level_iters=[30]).optimize(
    static, moving, static_grid2world=affine, moving_grid2world=affine
)
write_mapping(mapping, f"{sys.argv[1]}/mapping.nii.gz")
image = nib.load(f"{sys.argv[1]}/mapping.nii.gz")
print("affine in the header:", image.affine.round(3).tolist())
assert not np.allclose(image.affine, affine)
assert np.allclose(image.affine, np.linalg.inv(affine), atol=1e-5)

voxel = (4, 4, 3)
place = apply_affine(affine, [voxel])
step = (mapping.transform_points(place) - place)[0]
first, second = np.moveaxis(image.get_fdata()[voxel], -1, 0)
print("static -> moving", step.round(3), "first", first.round(3), "second", second.round(3))
assert np.allclose(step, second, atol=1e-4)
assert not np.allclose(step, first, atol=0.5)
PYTHON
