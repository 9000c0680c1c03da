#!/usr/bin/env bash
# A surface in GIFTI may say in several coordinate systems where it lies: GIFTI allows it, gifticlib and FreeSurfer read
# all. nibabel keeps the last one alone, without a word, and writes its matrix with six decimals: a surface that says by
# a matrix where it lies in the scanner does not say so any more once nibabel has saved it, and a turn in a matrix of small
# numbers (from millimetres to metres) is off by a fifth.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir nibabel==5.4.2 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import re

import nibabel as nib
import numpy as np
from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage

print("nibabel", nib.__version__)
to_scanner, turn = np.eye(4), 0.0012345
to_scanner[:2, :2] = 0.001 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
array = GiftiDataArray(
    np.eye(3, dtype=np.float32), "NIFTI_INTENT_POINTSET", coordsys=GiftiCoordSystem(0, 1, to_scanner)
)
xml = GiftiImage(darrays=[array]).to_xml().decode()
written = [float(x) for x in re.search("<MatrixData>(.*?)</MatrixData>", xml, re.S)[1].split()]
print(f"sine of the turn: {to_scanner[1, 0]:.9f} mm, written as {written[4]:.9f}")
assert written[4] == 1e-6 and abs(to_scanner[1, 0] - 1.2345e-6) < 1e-10

system = re.search("<CoordinateSystemTransformMatrix>.*?</CoordinateSystemTransformMatrix>", xml, re.S)[0]
talairach = system.replace("NIFTI_XFORM_SCANNER_ANAT", "NIFTI_XFORM_TALAIRACH")
both = xml.replace(system, system + talairach)
again = GiftiImage.from_bytes(both.encode()).to_xml().decode()
spaces = [re.findall(r"<TransformedSpace>(?:<!\[CDATA\[)?(\w+)", text) for text in (both, again)]
print("systems to", spaces[0], "loaded and saved:", spaces[1])
assert spaces == [["NIFTI_XFORM_SCANNER_ANAT", "NIFTI_XFORM_TALAIRACH"], ["NIFTI_XFORM_TALAIRACH"]]
PYTHON
