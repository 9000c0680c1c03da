#!/usr/bin/env bash
# PyTorch 2.13.0: an operator of the stable ABI that has a str among its arguments leaves it in memory at every call.
# The conversion of arguments to std::string (torch/csrc/stable/stableivalue_conversions.h) makes a string with `new`
# and returns a copy of it. 2.15.0 does not. A million calls take 48 MB, with an int none. l2rfast had it too, and takes
# its names by a conversion of its own (kernels/common/text.h).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 numpy==2.4.6 setuptools

cat > operators.cpp <<'CPP'
#include <torch/csrc/stable/library.h>

#include <string>

int64_t length(std::string name) { return int64_t(name.size()); }

int64_t same(int64_t number) { return number; }

STABLE_TORCH_LIBRARY(finding, m) {
  m.def("length(str name) -> int");
  m.def("same(int number) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(finding, CompositeExplicitAutograd, m) {
  m.impl("length", TORCH_BOX(&length));
  m.impl("same", TORCH_BOX(&same));
}
CPP
cat > calls.py <<'PY'
import ctypes
import sys

import torch


class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks used free keep".split()]


heap = ctypes.CDLL(None).mallinfo2
heap.restype = Heap
torch.ops.load_library(sys.argv[1])


def kept(operator, argument, calls=100_000):
    """Bytes of the heap that each call leaves in use."""
    operator(argument)
    before = heap().used
    for _ in range(calls):
        operator(argument)
    return round((heap().used - before) / calls)


print("torch", torch.__version__)
print("a str as argument:", kept(torch.ops.finding.length, "border"), "bytes kept by each call")
print("an int as argument:", kept(torch.ops.finding.same, 7), "bytes kept by each call")
PY
place=$(env/bin/python -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null)
g++ -shared -fPIC -std=c++20 -O1 -DTORCH_TARGET_VERSION=0x020b000000000000 \
  -I"$place/include" -I"$place/include/torch/csrc/api/include" operators.cpp -L"$place/lib" -ltorch_cpu -o operators.so
env/bin/python calls.py ./operators.so | tee found

# Seen:
# torch 2.13.0+cpu
# a str as argument: 48 bytes kept by each call
# an int as argument: 0 bytes kept by each call
grep -q '^torch 2\.13\.0' found
grep -q '^a str as argument: 48 bytes' found
grep -q '^an int as argument: 0 bytes' found
