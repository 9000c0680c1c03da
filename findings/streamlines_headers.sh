#!/usr/bin/env bash
# nibabel loads MRtrix' streamlines (.tck) whose header it cannot save again. Keys that are there twice, as MRtrix writes
# one command_history for every command, come out as one key and lines without any; and where a value has a colon in it
# (a time of day, an option) saving raises, after the file has been emptied: over itself, the streamlines are lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir nibabel==5.4.2 numpy==2.3.5
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

file = Path(sys.argv[1]) / "a.tck"
print("nibabel", nib.__version__)


def saved(*lines):
    """The file as it is after it was loaded and saved over itself, and the error."""
    head = "\n".join(["mrtrix tracks", *lines, "datatype: Float32LE", "file: . 200", "END", ""])
    numbers = np.array([[1, 2, 3], [4, 5, 6], [np.nan] * 3, [np.inf] * 3], "<f4")
    file.write_bytes(head.encode().ljust(200) + numbers.tobytes())
    found = nib.streamlines.load(file)
    try:
        nib.streamlines.save(found.tractogram, file, header=found.header)
    except Exception as error:
        return file.read_bytes(), type(error).__name__
    return file.read_bytes(), None


data, error = saved("command_history: tckgen a.mif a.tck", "command_history: tckedit a.tck b.tck")
lines = data.partition(b"\nEND")[0].decode().splitlines()
print(*lines, sep="\n")
assert error is None and "tckedit a.tck b.tck" in lines

data, error = saved("timestamp: 2026-11-27 09:30")
print(f"with a colon in a value: {error}, and a file of {len(data)} bytes")
assert (data, error) == (b"", "HeaderError")
PYTHON
