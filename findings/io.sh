#!/usr/bin/env bash
# Voxel sizes that a NIfTI header says twice: SimpleITK takes pixdim's even where it takes axes and origin of the sform,
# and mirrors an axis whose pixdim is negative; nibabel takes the columns of the sform, and the sizes as positive.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import logging
import struct

import nibabel as nib
import numpy as np
import SimpleITK as sitk

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
sitk.ProcessObject.SetGlobalWarningDisplay(False)
print("SimpleITK", sitk.__version__, "nibabel", nib.__version__, "numpy", np.__version__)


def read(sform, pixdim):
    """Both codes 1, the qform of pixdim: what each reader takes for voxel -> RAS millimetres."""
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), sform)
    image.set_qform(sform, 1)
    image.set_sform(sform, 1)
    contents = bytearray(image.to_bytes())
    contents[80:92] = struct.pack("<3f", *pixdim)
    open("a.nii", "wb").write(contents)
    seen = sitk.ReadImage("a.nii")
    itk = np.eye(4)
    itk[:3, :3] = np.reshape(seen.GetDirection(), (3, 3)) * seen.GetSpacing()
    itk[:3, 3] = seen.GetOrigin()
    return np.diag(np.diag([-1.0, -1, 1, 1]) @ itk)[:3].round(4), np.diag(nib.load("a.nii").affine)[:3].round(4)


sform = np.diag([2.2, 1.65, 3.3, 1.0])
for pixdim, expected in (((2.0, 1.5, 3.0), (2.0, 1.5, 3.0)), ((-2.2, 1.65, 3.3), (-2.2, 1.65, 3.3))):
    itk, nibabel = read(sform, pixdim)
    print("sform", np.diag(sform)[:3], "pixdim", pixdim, "-> SimpleITK", itk, "nibabel", nibabel)
    assert np.allclose(itk, expected) and np.allclose(nibabel, np.diag(sform)[:3])
PYTHON
