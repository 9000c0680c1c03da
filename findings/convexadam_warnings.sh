#!/usr/bin/env bash
# Importing ConvexAdam turns off every warning of the process, also other libraries' and those to come: what code after
# it warns of is not seen, and whether its own calls warn depends on who imported it first and changed the filters since.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.3.5 convexAdam==0.2.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import numpy as np
import torch

print("convexAdam", version("convexAdam"), "torch", torch.__version__, "numpy", np.__version__)


def seen():
    """The warnings that reach a program, of PyTorch and of its own."""
    with warnings.catch_warnings(record=True) as caught:
        torch.nn.functional.affine_grid(torch.eye(3, 4)[None], [1, 1, 4, 4, 4])  # align_corners is not given
        warnings.warn("the program's own", UserWarning, stacklevel=2)
    return [str(each.message)[:60] for each in caught]


before = seen()
import convexAdam.convex_adam_MIND  # noqa: E402, F401

after = seen()
print("before the import:", before)
print("after it:", after)
print("first filter:", warnings.filters[0][:3] if warnings.filters[0][0] == "ignore" else warnings.filters[0])
assert len(before) == 2 and after == []
PYTHON
