"""MRtrix' streamlines (.tck), in scanner coordinates: RAS millimetres.

The header is text up to END, and says where the numbers begin and of which type they are. A streamline ends with a
triple of NaN, the file with one of infinity. Only the triples between are replaced: nibabel 5.4 writes another header
than it has read (repeated keys as lines without one), none with a colon in a value, as times of day have, and float32
alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .stored import RAS, Format, Stored

_TYPES = {"float32le": "<f4", "float32be": ">f4", "float64le": "<f8", "float64be": ">f8", "float32": "<f4"}


def _read(path: Path, asked: str | None) -> Stored:
    data = path.read_bytes()
    head = re.match(rb"mrtrix tracks[^\n]*\n(.*?\n)?END\r?\n", data, re.S)
    if head is None:
        raise ValueError("no header of MRtrix'")
    said = (line.partition(":") for line in head[0].decode(errors="replace").splitlines())
    keys = {key.strip(): value.strip() for key, _, value in said if key.strip() in ("file", "datatype")}
    kind = _TYPES.get(keys.get("datatype", "").lower())
    where = re.fullmatch(r"\.\s+(\d+)", keys.get("file", ""))
    if kind is None or where is None:
        raise ValueError(f"datatype {keys.get('datatype')!r} and file {keys.get('file')!r}")
    begin, size = int(where[1]), 3 * np.dtype(kind).itemsize
    if begin < head.end() or begin > len(data):
        raise ValueError(f"numbers that begin at {begin}, of {len(data)} bytes: the file is damaged")
    triples = np.frombuffer(data, kind, 3 * ((len(data) - begin) // size), begin).reshape(-1, 3).astype(np.float64)
    ends = np.isinf(triples).all(1)
    if not ends.any():
        raise ValueError("no end of its streamlines: the file is damaged")
    triples = triples[: ends.argmax()]
    chosen = ~np.isnan(triples).all(1)

    def write(path: Path, values: np.ndarray) -> None:
        moved = triples.copy()
        moved[chosen] = values
        block = moved.astype(kind).tobytes()
        path.write_bytes(data[:begin] + block + data[begin + len(block) :])

    return Stored(triples[chosen], RAS, [""] * int(chosen.sum()), write)


FORMAT = Format("streamlines of MRtrix", (".tck",), _read)
