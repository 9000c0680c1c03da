#!/usr/bin/env bash
# A kernel with a loop up to one of its arguments, run by Triton's interpreter (TRITON_INTERPRET=1, for machines without
# a GPU). It takes the number out of an array of one element with int(), which NumPy 2.3 warned of and NumPy 2.4 refuses:
# Triton 3.6.0, which PyTorch 2.11 asks for and which pins no NumPy, ends in a TypeError that names no kernel. Nothing
# compiled is touched.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/loop.py" <<'PYTHON'
import sys

import numpy as np
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit
def loop(n):
    for k in range(n):
        tl.device_print("turn", k)


error = ""
try:
    loop[(1,)](2)
except InterpreterError as raised:
    error = str(raised)
print("triton", triton.__version__, "numpy", np.__version__, error or "runs")
expected = {"runs": "", "refuses": "TypeError('only 0-dimensional arrays can be converted to Python scalars')"}
assert error == expected[sys.argv[1]]
PYTHON
for pair in 2.3.5=runs 2.4.0=refuses; do
    "$folder/venv/bin/pip" install -q --no-cache-dir triton==3.6.0 "numpy==${pair%=*}"
    TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/loop.py" "${pair#*=}"
done
