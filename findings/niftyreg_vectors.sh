#!/usr/bin/env bash
# NiftyReg marks its fields by the NIfTI intent of vectors, 1007, and says in intent_name (NREG_TRANS) and intent_p1 what
# they are: places (0) or displacements (1) in RAS millimetres. ITK takes any image of intent 1007 for vectors in LPS and
# passes over the name: the field that leaves every voxel where it is becomes, in SimpleITK, one that moves by hundreds of
# millimetres, and a displacement goes the wrong way along x and y. Both make a DisplacementFieldTransform without a word.
# The headers are those of reg_transform -def and -disp of NiftyReg 1.5.70 (reg-lib/cpu/_reg_localTrans.cpp).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.3.5
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk

folder = sys.argv[1]
print("SimpleITK", sitk.Version.VersionString(), "nibabel", nib.__version__)
affine = np.diag([2.0, 2.0, 2.0, 1.0])
affine[:3, 3] = 100, 50, 20
voxels = np.stack(np.meshgrid(*map(np.arange, (9, 8, 7)), indexing="ij"), -1)
places = nib.affines.apply_affine(affine, voxels)


def moved(vectors, kind):
    """Where SimpleITK takes the middle of the grid, in RAS."""
    image = nib.Nifti1Image(vectors[:, :, :, None].astype(np.float32), affine)
    image.header.set_intent("vector", name="NREG_TRANS")
    image.header["intent_p1"] = kind
    nib.save(image, f"{folder}/a.nii.gz")
    field = sitk.ReadImage(f"{folder}/a.nii.gz", sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    to = np.array(transform.TransformPoint((places[4, 4, 3] * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    print(f"intent_p1 {kind}: {places[4, 4, 3]} goes to {to}")
    return to - places[4, 4, 3]


np.testing.assert_allclose(moved(places, 0), places[4, 4, 3] * [-1, -1, 1], atol=1e-4)  # it should stay: 0 0 0
np.testing.assert_allclose(moved(np.full(places.shape, [1.0, 2, 3]), 1), [-1, -2, 3], atol=1e-4)  # it should be 1 2 3
PYTHON
