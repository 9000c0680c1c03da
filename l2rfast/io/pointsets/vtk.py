"""VTK's legacy files (.vtk), of text or binary, with points: POLYDATA, UNSTRUCTURED_GRID and STRUCTURED_GRID.

Only the numbers of the POINTS are replaced; cells, scalars and whatever else there is stays, byte for byte. 3D Slicer
writes ``SPACE=LPS`` or ``SPACE=RAS`` into the title of its models; nothing else in such a file says what it is: ITK's
and ITK-SNAP's are LPS, others' RAS as well. Binary numbers are big-endian. Checked with VTK 9.7.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import notice
from .stored import SYSTEMS, Format, Stored, replaced

_HEAD = re.compile(
    rb"# vtk DataFile Version [\d.]+[^\n]*\n(?P<title>[^\n]*)\n\s*(?P<kind>ASCII|BINARY)\s+DATASET\s+(?P<set>\w+)", re.I
)
_SETS = (b"POLYDATA", b"UNSTRUCTURED_GRID", b"STRUCTURED_GRID")
_POINTS = re.compile(rb"^[ \t]*POINTS[ \t]+(?P<count>\d+)[ \t]+(?P<type>\w+)[ \t]*\r?\n", re.M | re.I)
_NEXT = re.compile(rb"^[ \t]*[A-Z][A-Z_]+\b", re.M)  # what follows on numbers: a word, or the end
_DIRECTED = re.compile(rb"^[ \t]*(NORMALS|VECTORS|TENSORS)[ \t]+\S+[ \t]+\w+", re.M | re.I)
_TYPES = {b"float": (">f4", "%.9g"), b"double": (">f8", "%.17g")}


def _read(path: Path, asked: str | None) -> Stored:
    data = path.read_bytes()
    head = _HEAD.match(data)
    if head is None:
        raise ValueError("no legacy file of VTK's")
    if head["set"].upper() not in _SETS:
        raise ValueError(f"a {head['set'].decode()}, which has no list of points")
    points = _POINTS.search(data, head.end())
    if points is None or points["type"].lower() not in _TYPES:
        found = "" if points is None else f", but of {points['type'].decode()}"
        raise ValueError(f"no points of float or double numbers{found}")
    count, (kind, text) = 3 * int(points["count"]), _TYPES[points["type"].lower()]
    begin = points.end()
    if head["kind"].upper() == b"BINARY":
        end = begin + count * np.dtype(kind).itemsize
        if end > len(data):
            raise ValueError(f"{points['count'].decode()} points and fewer in it: the file is damaged")
        values = np.frombuffer(data, kind, count, begin).astype(np.float64)
    else:
        after = _NEXT.search(data, begin)
        end = begin + len(data[begin : len(data) if after is None else after.start()].rstrip())
        values = np.array(data[begin:end].split(), np.float64)
        if len(values) != count:
            raise ValueError(f"{points['count'].decode()} points and {len(values)} numbers in it: the file is damaged")
    directed = _DIRECTED.findall(data, end)
    if directed:
        names = ", ".join(sorted({name.decode().upper() for name in directed}))
        notice(f"{path}: {names} of the file stay as they are: directions are not turned")
    space = re.search(rb"SPACE=(RAS|LPS)", head["title"])

    def write(path: Path, values: np.ndarray) -> None:
        if head["kind"].upper() == b"BINARY":
            block = values.astype(kind).tobytes()
        else:
            block = "\n".join(" ".join(text % value for value in row) for row in values.tolist()).encode()
        path.write_bytes(replaced(data, [(begin, end, block)]))

    frame = None if space is None else SYSTEMS[space[1].decode().lower()]
    return Stored(values.reshape(-1, 3), frame, [""] * (count // 3), write)


FORMAT = Format("a legacy file of VTK's", (".vtk",), _read)
