#!/usr/bin/env bash
# elastix writes the direction of the fixed image into TransformParameters column by column: the transpose of what
# SimpleITK's GetDirection gives and of what stands in ITK's transform files. On images along the axes nothing is seen of
# it; read row by row, the grid of an oblique image is turned the other way round.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir itk-elastix==0.25.4 SimpleITK==2.5.7 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import itk
import numpy as np
import SimpleITK as sitk

print(*(f"{name} {version(name)}" for name in ("itk-elastix", "SimpleITK")))
direction = np.array([[0.8, 0.6, 0.0], [0.0, 0.0, 1.0], [0.6, -0.8, 0.0]])
values = np.random.default_rng(0).random((12, 12, 12), np.float32)
image = itk.image_from_array(values)
image.SetDirection(itk.matrix_from_array(direction))
parameters = itk.ParameterObject.New()
translation = parameters.GetDefaultParameterMap("translation", 1)
translation["MaximumNumberOfIterations"] = ["1"]
parameters.AddParameterMap(translation)
_, found = itk.elastix_registration_method(image, image, parameter_object=parameters, log_to_console=False)
theirs = [float(value) for value in found.GetParameterMap(0)["Direction"]]
same = sitk.GetImageFromArray(values)
same.SetDirection(direction.ravel().tolist())
print("SimpleITK", same.GetDirection())
print("elastix  ", tuple(theirs))
assert np.allclose(same.GetDirection(), direction.ravel())
assert np.allclose(theirs, direction.T.ravel())
PYTHON
