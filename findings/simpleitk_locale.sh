#!/usr/bin/env bash
# SimpleITK sets the locale of the whole process to "C", and leaves it so, when it reads a legacy VTK image, or writes a
# DICOM slice that has a position (0020|0032). From then on Python's open() and Path.write_text() take ASCII where they
# are not told an encoding, though the process began in UTF-8: text written before and after differs in what it may hold,
# and the error that comes names neither SimpleITK nor the locale. Reading DICOM, and other formats, leave it alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir SimpleITK==2.5.7 numpy==2.4.6
LC_ALL=C.UTF-8 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import locale
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

folder = Path(sys.argv[1])
print("SimpleITK", sitk.Version.VersionString(), "ITK", sitk.Version.ITKVersionString())
locale.setlocale(locale.LC_ALL, "C.UTF-8")
image = sitk.GetImageFromArray(np.zeros((1, 6, 7), np.uint16))
placed = sitk.Image(image)
placed.SetMetaData("0020|0032", "1\\2\\3")


def changed(act):
    act()
    found = locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False)
    try:
        (folder / "a.txt").write_text("Åse")
        writes = True
    except UnicodeEncodeError as error:
        print("   ", error)
        writes = False
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    assert writes == (found[0] != "C")
    return found[0] == "C"


seen = {}
for name, what in (("a.mha", image), ("a.nrrd", image), ("a.vtk", image), ("a.dcm", image), ("placed.dcm", placed)):
    path = str(folder / name)
    seen[f"write {name}"] = changed(lambda: sitk.WriteImage(what, path))
    seen[f"read {name}"] = changed(lambda: sitk.ReadImage(path))
for act, lost in seen.items():
    print(f"{act}: {'the locale is C from then on' if lost else 'as before'}")
assert [act for act, lost in seen.items() if lost] == ["read a.vtk", "write placed.dcm"]
PYTHON
