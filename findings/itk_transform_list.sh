#!/usr/bin/env bash
# A text file of ITK's with two transforms and no CompositeTransform above them. SimpleITK takes the first alone, with a
# warning; antspyx takes both for a chain, the last first; nitransforms takes them for a series. And SimpleITK writes a
# composite as MATLAB's .mat without a word, keeps the numbers of its last part alone, and cannot read it back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir SimpleITK==2.5.7 antspyx==0.6.3 nitransforms==25.1.0 numpy==2.3.5
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import ants
import numpy as np
import SimpleITK as sitk
from nitransforms.io.itk import ITKLinearTransformArray

print(*(f"{name} {version(name)}" for name in ("SimpleITK", "antspyx", "nitransforms")))
file = f"{sys.argv[1]}/two.txt"
parts = "Transform: AffineTransform_double_3_3\nParameters: {} {}\nFixedParameters: 0 0 0\n"
double, step = parts.format("2 0 0 0 2 0 0 0 2", "0 0 0"), parts.format("1 0 0 0 1 0 0 0 1", "1 0 0")
with open(file, "w") as text:
    text.write(f"#Insight Transform File V1.0\n#Transform 0\n{double}#Transform 1\n{step}")
first = sitk.ReadTransform(file).TransformPoint((0.0, 0.0, 0.0))
chain = tuple(ants.read_transform(file).apply_to_point((0, 0, 0)))
series = len(ITKLinearTransformArray.from_filename(file).to_ras())
print(f"(0, 0, 0) goes to {first} by SimpleITK, to {chain} by antspyx; to nitransforms they are {series} transforms")
assert (first, chain, series) == ((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), 2)

both = sitk.CompositeTransform([sitk.ReadTransform(file), sitk.TranslationTransform(3, (1.0, 0.0, 0.0))])
sitk.WriteTransform(both, f"{sys.argv[1]}/two.mat")
try:
    sitk.ReadTransform(f"{sys.argv[1]}/two.mat")
except RuntimeError as error:
    print("read back:", str(error).splitlines()[-1])
else:
    raise SystemExit("SimpleITK reads its composite")
PYTHON
