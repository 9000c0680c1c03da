"""TrackVis' streamlines (.trk), version 2, in millimetres from the corner of the first voxel of an image.

How these lie to the world its header says (the matrix to RAS, and the order of the voxels), which stays: so the numbers
in the file are still of the grid of that image. Streamlines, their scalars and properties stay too: only the
coordinates are replaced. A header without the matrix, as version 1 has none, is refused.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.streamlines.tractogram_file import HeaderError, HeaderWarning
from nibabel.streamlines.trk import TrkFile, get_affine_trackvis_to_rasmm

from ...errors import notice
from .stored import Format, Stored

_SIZE = 1000  # of the header
_COUNT = 988  # where it has the number of streamlines


def _read(path: Path, asked: str | None) -> Stored:
    data = path.read_bytes()
    header = _header(path, data[:_SIZE])
    if not (np.isfinite(header["voxel_sizes"]) & (header["voxel_sizes"] > 0)).all():
        raise ValueError(f"voxels of size {header['voxel_sizes'].tolist()}")
    order = header["endianness"]
    sizes = [int(header[name]) for name in ("nb_scalars_per_point", "nb_properties_per_streamline")]
    sizes.append(int(np.frombuffer(data, f"{order}i4", 1, _COUNT)[0]))  # nibabel counts where it is said
    per_point, properties, count = 3 + sizes[0], sizes[1], sizes[2]
    whole = (len(data) - _SIZE) // 4
    if min(sizes) < 0 or (len(data) - _SIZE) % 4:
        raise ValueError("a size that does not fit: the file is damaged")
    numbers = np.frombuffer(data, f"{order}f4", whole, _SIZE)
    lengths = np.frombuffer(data, f"{order}i4", whole, _SIZE)
    begins, points, at = [], [], 0
    while at < whole:
        length = int(lengths[at])
        if length < 0 or at + 1 + length * per_point + properties > whole:
            raise ValueError(f"a streamline of {length} points: the file is damaged")
        begins.append(at + 1)
        points.append(length)
        at += 1 + length * per_point + properties
    if count not in (0, len(points)):  # 0 where it is not known
        raise ValueError(f"{count} streamlines in its header and {len(points)} in it: the file is damaged")
    each = np.array(points, np.int64)
    within = np.arange(each.sum()) - np.repeat(each.cumsum() - each, each)
    first = np.repeat(np.array(begins, np.int64), each) + within * per_point
    places = first[:, None] + np.arange(3)

    def write(path: Path, values: np.ndarray) -> None:
        moved = numbers.copy()
        moved[places] = values
        path.write_bytes(data[:_SIZE] + moved.tobytes())

    frame = np.asarray(get_affine_trackvis_to_rasmm(header), np.float64)  # type: ignore[no-untyped-call]
    return Stored(numbers[places].astype(np.float64), frame, [""] * len(places), write)


def _header(path: Path, head: bytes) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", HeaderWarning)
        try:
            header: dict[str, Any] = dict(
                TrkFile.load(io.BytesIO(head), lazy_load=True).header  # type: ignore[no-untyped-call]
            )
        except HeaderError as error:
            raise ValueError(str(error)) from error
    for warning in said:
        if "vox_to_ras" in str(warning.message):
            raise ValueError("a header without the matrix that says where its voxels lie, as version 1 has none")
        notice(f"{path}: {warning.message}")
    return header


FORMAT = Format("streamlines of TrackVis", (".trk",), _read)
