"""Writing NIfTI files with a header that has one reading."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from ..errors import InputError

_BLOCK = 2**22  # bytes that are compressed at a time


def write(path: str | os.PathLike[str], data: Tensor, affine: np.ndarray, intent: int = 0) -> None:
    """Write values as they are, in millimetres, both forms carrying the affine with code 1.

    Raises:
        InputError: another suffix than .nii and .nii.gz.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: expected a name that ends with .nii or .nii.gz")
    # NIfTI stores the first axis fastest; PyTorch reorders quicker than the writer would.
    array = data.detach().cpu().permute(*reversed(range(data.ndim))).contiguous().numpy().T
    image: Any = nib.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    image.set_sform(affine, code=1)
    try:
        image.set_qform(affine, code=1, strip_shears=False)
    except HeaderDataError:  # sheared
        image.set_qform(None)
    contents = image.to_bytes()
    if path.suffix == ".nii":
        path.write_bytes(contents)
        return
    # Run-length matches alone: on floats as small as the full search, in a third of the time.
    deflate = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, strategy=zlib.Z_RLE)
    with path.open("wb") as file:
        for start in range(0, len(contents), _BLOCK):
            file.write(deflate.compress(contents[start : start + _BLOCK]))
        file.write(deflate.flush())
