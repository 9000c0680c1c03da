#!/usr/bin/env bash
# Uncompressed TIFF whose orientation swaps rows and columns (5 to 8, a section scanned on its side) comes out of Pillow
# garbled: the image has its turned size already when the stored rows are put into it, and is turned then. There is no
# error; the size is the stored one, not the one that was said before the pixels were read. The four other orientations
# and compressed files are right, and so was Pillow 10.4. SimpleITK gives such files 4 channels, and leaves the size.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 10.4.0 11.3.0 12.0.0; do
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-cache-dir "pillow==$version" SimpleITK==2.5.7 numpy==2.4.6
    "$folder/venv/bin/python" - "$version" "$folder/a.tif" <<'PYTHON'
import sys

import numpy as np
import PIL
import SimpleITK as sitk
from PIL import Image

version, path = sys.argv[1:]
print("Pillow", PIL.__version__, "SimpleITK", sitk.Version.VersionString())
image = np.add.outer(3 * np.arange(40), np.arange(56)).astype("u1")
half = np.rot90(image, 2)
seen = [image, image[:, ::-1], half, image[::-1], image.T, np.rot90(image, -1), half.T, np.rot90(image)]
for compression in (None, "tiff_lzw"):
    right = []
    for orientation, wanted in enumerate(seen, 1):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(image).save(path, exif=exif, compression=compression)
        found = np.asarray(Image.open(path))
        if np.array_equal(found, wanted):
            right.append(orientation)
        if compression is None and orientation in (1, 3, 6):
            itk = sitk.GetArrayFromImage(sitk.ReadImage(path))
            print(f"orientation {orientation}: SimpleITK has shape {itk.shape}")
            assert itk.shape == {1: (40, 56), 3: (40, 56, 4), 6: (40, 56, 4)}[orientation]
    print(f"compression {compression}: Pillow is right at orientations {right}")
    garbled = compression is None and version != "10.4.0"
    assert right == ([1, 2, 3, 4] if garbled else [1, 2, 3, 4, 5, 6, 7, 8])
PYTHON
done
