#!/usr/bin/env bash
# Of a NIfTI image whose header places it nowhere (sform and qform code 0) nibabel's affine has a negative determinant:
# by FSL's rule its places count from the first voxel. fslpy takes another affine, of positive determinant, and counts
# the first axis from the last voxel. A FLIRT matrix or a FNIRT field that is turned into the world with nibabel's
# affine and that rule is a mirror image of what fslpy makes of the same files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir fslpy==3.29.1 nibabel==5.4.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import nibabel as nib
import numpy as np
from fsl.data.image import Image

path = f"{sys.argv[1]}/a.nii"
print("fslpy", version("fslpy"), "nibabel", nib.__version__)
image = nib.Nifti1Image(np.zeros((5, 4, 3), np.float32), None)
image.header.set_zooms((2, 2, 2))
image.header["sform_code"] = image.header["qform_code"] = 0
nib.save(image, path)
theirs = Image(path)
negative = np.linalg.det(nib.load(path).affine) < 0
first = theirs.getAffine("voxel", "fsl")[:3, 3]
print(f"nibabel: determinant below 0 is {negative}; fslpy: neurological is {theirs.isNeurological()}, voxel 0 at {first}")
assert negative
assert theirs.isNeurological()
assert first.tolist() == [8, 0, 0]
PYTHON
