#!/usr/bin/env bash
# A warp in .mgz is a 4-D MGH volume to surfa (and to FreeSurfer 8), but not to nibabel: the intent "warp" is kept in the
# second and third byte of the header's version, which so is 769 instead of 1, and nibabel takes no version but 1. What the
# three components are (voxels or millimetres, places or displacements) stands behind the voxels, in a tag that nibabel
# passes over: with the version set to 1 it reads the numbers and can no longer tell which of the four they are. surfa
# itself reads its own file with NumPy before 2.3 alone (np.fromstring of bytes).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir surfa==0.6.3 nibabel==5.4.2 numpy==2.2.6
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import gzip
import sys
from importlib.metadata import version

import nibabel as nib
import numpy as np
import surfa as sf

folder = sys.argv[1]
print("surfa", version("surfa"), "nibabel", nib.__version__, "numpy", np.__version__)
source, target = (sf.ImageGeometry(shape, voxsize=2) for shape in ((8, 9, 7), (7, 6, 5)))
ones = sf.Warp(np.ones((7, 6, 5, 3), np.float32), source, target, format=sf.Warp.Format.disp_ras)
for kind in ("abs_crs", "disp_crs", "abs_ras", "disp_ras"):
    path = f"{folder}/{kind}.mgz"
    ones.convert(format=getattr(sf.Warp.Format, kind)).save(path)
    contents = gzip.open(path).read()
    try:
        nib.load(path)
        said = "read"
    except nib.spatialimages.HeaderDataError as error:
        said = str(error)
    plain = f"{folder}/{kind}.mgh"
    with open(plain, "wb") as file:
        file.write((1).to_bytes(4, "big") + contents[4:])
    first = nib.load(plain).get_fdata()[0, 0, 0]
    warp = sf.load_warp(path)
    print(f"{kind}: version {int.from_bytes(contents[:4], 'big')}, nibabel: {said}; as version 1: {first}; "
          f"surfa: kind {warp.format}, {warp.convert(format=3).data[0, 0, 0]} mm")
    assert said == "Unknown MGH format version"
    np.testing.assert_allclose(warp.convert(format=3).data, 1, atol=1e-5)
assert int.from_bytes(contents[:4], "big") == 769
PYTHON
