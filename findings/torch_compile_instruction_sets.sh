#!/usr/bin/env bash
# PyTorch 2.13.0's cache of compiled graphs does not tell instruction sets apart. A process that is held to AVX2 by
# ATEN_CPU_CAPABILITY=avx2, as one compares what a loss takes on common processors, is given code that torch.compile
# made with AVX-512 before: nothing is raised, and sums are wrong (here a smoothness beside a similarity), or not finite.
# With a cache of its own (TORCHINDUCTOR_CACHE_DIR) it is right. Seen on a processor with AVX-512, which this needs.
set -euo pipefail
if [ "$(uname -m)" != x86_64 ] || ! grep -q avx512f /proc/cpuinfo; then
  echo "This processor has no AVX-512: there is nothing to see on it." >&2
  exit 2
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir torch==2.13.0 numpy==2.4.6 setuptools
cat > "$folder/loss.py" <<'PYTHON'
import torch


def loss(distances, field):
    return distances.mean() + field.square().mean()


random = torch.Generator().manual_seed(0)
inputs = torch.rand(7, generator=random), torch.rand(1, 3, 33, 35, 37, generator=random)
print(float(loss(*inputs)), float(torch.compile(loss)(*inputs)), torch.backends.cpu.get_cpu_capability())
PYTHON
python=$folder/venv/bin/python
export TORCHINDUCTOR_CACHE_DIR=$folder/cache
first=$("$python" "$folder/loss.py")
second=$(ATEN_CPU_CAPABILITY=avx2 "$python" "$folder/loss.py")
third=$(TORCHINDUCTOR_CACHE_DIR=$folder/own ATEN_CPU_CAPABILITY=avx2 "$python" "$folder/loss.py")
"$python" - "$first" "$second" "$third" <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)
off = []
for name, line in zip(("first process", "second, the same cache", "third, a cache of its own"), sys.argv[1:]):
    eager, compiled, capability = line.split()
    print(f"{name}, {capability}: loss {float(eager):.6f}, compiled {float(compiled):.6f}")
    off.append(abs(float(compiled) / float(eager) - 1))
assert off[0] < 1e-5 and off[2] < 1e-5
assert not off[1] < 1e-3
PYTHON
