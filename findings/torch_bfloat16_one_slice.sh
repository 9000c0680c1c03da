#!/usr/bin/env bash
# A 3-D convolution of PyTorch 2.13.0 in bfloat16, of a volume that has one slice along its first axis and an odd number
# of channels, gives values of up to 1e38 on processors with AMX: nothing is raised. In float32, in bfloat16 without AMX
# (ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16), with two slices, two channels, or one slice along another axis it is right. Who
# trains with autocast on single slices as volumes, or reduces to one slice, sees losses that are not finite.
# Seen on a processor with AMX, which this needs.
set -euo pipefail
if [ "$(uname -m)" != x86_64 ] || ! grep -q amx_bf16 /proc/cpuinfo; then
  echo "This processor has no AMX for bfloat16: there is nothing to see on it." >&2
  exit 2
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir torch==2.13.0 numpy==2.4.6
cat > "$folder/convolve.py" <<'PYTHON'
import torch
from torch.nn import Conv3d

torch.manual_seed(0)
torch.set_num_threads(1)
for channels, size in ((1, (1, 24, 24)), (3, (1, 24, 24)), (2, (1, 24, 24)), (1, (2, 24, 24)), (1, (24, 1, 24))):
    largest = 0.0
    for _ in range(5):  # what is wrong is not the same each time
        convolution, volume = Conv3d(channels, 16, 3, padding=1), torch.randn(2, channels, *size)
        with torch.no_grad():
            expected = convolution(volume)
            with torch.autocast("cpu", torch.bfloat16):
                found = convolution(volume).float()
        off = (found - expected).abs().nan_to_num(torch.inf, torch.inf).max()
        largest = max(largest, float(off))
    print(channels, *size, largest)
PYTHON
python=$folder/venv/bin/python
whole=$("$python" "$folder/convolve.py")
without=$(ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$python" "$folder/convolve.py")
"$python" - "$whole" "$without" <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)
wrong = {}
for name, told in zip(("with AMX", "without AMX"), sys.argv[1:]):
    for line in told.splitlines():
        channels, *size, off = line.split()
        print(f"{name}, {channels} channels, {' x '.join(size)}: off from float32 by {float(off):.3g} at most")
        wrong[name, channels, size[0], size[1]] = not float(off) < 1
assert [key for key, is_so in wrong.items() if is_so] == [("with AMX", "1", "1", "24"), ("with AMX", "3", "1", "24")]
PYTHON
