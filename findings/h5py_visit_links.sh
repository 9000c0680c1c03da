#!/usr/bin/env bash
# h5py 3.16.0: an exception that a callback raises within Group.visit_links or Group.visititems_links, as to stop at the
# first link out of a file of transforms, does not arrive: SystemError does, with the exception in its text alone, and no
# `except` for the callback's own takes it. Group.visit and Group.visititems hand it on. l2rfast, which looks for links
# out of HDF5 files before it reads them, walks through groups itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q h5py==3.16.0 numpy==2.4.6
cat > visit.py <<'PY'
from io import BytesIO

import h5py

print("h5py", h5py.__version__)


def stop(*_):
    raise LookupError("found")


with h5py.File(BytesIO(), "w") as file:
    file["TransformGroup/0/TransformParameters"] = [1.0, 0.0, 0.0]
    file["elsewhere"] = h5py.SoftLink("/TransformGroup")
    for name in ("visit", "visititems", "visit_links", "visititems_links"):
        try:
            getattr(file, name)(stop)
        except (LookupError, SystemError) as error:
            print(name, type(error).__name__)
PY
env/bin/python visit.py | tee found

# Seen:
# h5py 3.16.0
# visit LookupError
# visititems LookupError
# visit_links SystemError
# visititems_links SystemError
grep -q '^h5py 3\.16\.0' found
for name in visit visititems; do grep -q "^$name LookupError" found; done
for name in visit_links visititems_links; do grep -q "^$name SystemError" found; done
