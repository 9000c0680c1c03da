#!/usr/bin/env bash
# What becomes of integers between voxels. SimpleITK's Resample cuts what it interpolates to the integer nearer to zero:
# a scan in int16 resampled halfway between its voxels loses half a unit of signal where it is positive, and gains as
# much where it is negative (CT's air and fat): an error that no mean over voxels takes out. SciPy rounds to the nearest.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir simpleitk==2.5.7 scipy==1.16.3 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy
import SimpleITK as sitk
from scipy import ndimage

print("SimpleITK", sitk.Version_VersionString(), "scipy", scipy.__version__)
values = np.random.default_rng(0).integers(-1000, 1000, (32, 32, 32), dtype=np.int16)
shift = sitk.TranslationTransform(3, (0.2718, 0.0, 0.0))


def resampled(array):
    image = sitk.GetImageFromArray(array)
    return sitk.GetArrayFromImage(sitk.Resample(image, image, shift, sitk.sitkLinear))[:, :, 1:-1]


exact = resampled(values.astype(np.float64))
whole = resampled(values)
off = whole - exact
above, below = off[exact > 1].mean(), off[exact < -1].mean()
print("SimpleITK: mean error where positive", above.round(3), "where negative", below.round(3))
print("of all voxels, cut towards zero:", (whole == np.trunc(exact)).mean())
theirs = ndimage.shift(values, (0, 0, -0.2718), order=1)[:, :, 1:-1]
print("SciPy: mean error", (theirs - exact).mean().round(3))
assert (whole == np.trunc(exact)).all()
assert above < -0.4 and below > 0.4 and abs((theirs - exact).mean()) < 0.01
PYTHON
