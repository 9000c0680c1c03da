#!/usr/bin/env bash
# nitransforms reads the parts of ITK's composite .h5 in the order of their names as text: 1, 10, 11, 2, 3 and so on. Up
# to nine parts nothing is seen of it; of ten or more it goes through them in another order than ITK, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir SimpleITK==2.5.7 nitransforms==25.1.0 numpy==2.3.5
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import SimpleITK as sitk
from nitransforms.manip import TransformChain

print(*(f"{name} {version(name)}" for name in ("SimpleITK", "nitransforms")))


def reached(count):
    """Where (0, 0, 0) goes, in LPS: the last part is a step, the second doubles, the others are the identity."""
    parts = [sitk.AffineTransform(3) for _ in range(count)]
    parts[1].Scale(2.0)
    parts[-1].Translate((1.0, 0.0, 0.0))
    both = sitk.CompositeTransform(parts)
    sitk.WriteTransform(both, f"{sys.argv[1]}/{count}.h5")
    theirs = TransformChain.from_filename(f"{sys.argv[1]}/{count}.h5", fmt="itk").map(np.zeros((1, 3)))[0]
    found = both.TransformPoint((0.0, 0.0, 0.0))[0], -float(theirs[0])
    print(f"{count} parts: x = {found[0]} by SimpleITK, {found[1]} by nitransforms")
    return found


assert reached(9) == (2.0, 2.0)
assert reached(10) == (2.0, 1.0)
PYTHON
