#!/usr/bin/env bash
# A NIfTI slice of three axes, the last of one voxel, is an image of three axes to SimpleITK. A displacement field on the
# same grid, (H, W, 1, 1, 3) with vector intent, is one of two axes: the trailing axes of one voxel are dropped where
# there is a vector behind them, not where there is none. So the field that nibabel says is on the grid of the image
# cannot be made a transform of it; with the axis of one voxel first, (1, H, W, 1, 3), it keeps all three.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir SimpleITK==2.5.7 nibabel==5.3.3 numpy==2.3.5
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk

folder = sys.argv[1]
print("SimpleITK", sitk.Version.VersionString(), "nibabel", nib.__version__)


def read(shape):
    image = nib.Nifti1Image(np.ones(shape, np.float32), np.diag([2.0, 3.0, 4.0, 1.0]))
    if len(shape) == 5:
        image.header.set_intent("vector")
    nib.save(image, f"{folder}/a.nii.gz")
    seen = sitk.ReadImage(f"{folder}/a.nii.gz")
    found = seen.GetDimension(), seen.GetSize(), seen.GetNumberOfComponentsPerPixel()
    print(f"{shape}: {found[0]} axes, size {found[1]}, {found[2]} components")
    return found


assert read((9, 8, 1)) == (3, (9, 8, 1), 1)
assert read((9, 8, 2, 1, 3)) == (3, (9, 8, 2), 3)
assert read((9, 8, 1, 1, 3)) == (2, (9, 8), 3)
assert read((1, 9, 8, 1, 3)) == (3, (1, 9, 8), 3)
PYTHON
