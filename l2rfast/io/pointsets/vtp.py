"""VTK's XML files of surfaces and lines (.vtp).

Numbers stand as text or in base64 among the rest, or at the end of the file, and may be compressed, by zlib or LZMA;
LZ4 is refused. Only the points are replaced, by numbers of text, which VTK reads whatever the others are: cells,
scalars and the rest stay, byte for byte. 3D Slicer says by a string SPACE among the field data whether a model is LPS
or RAS; nothing else says it. VTK itself is not used: one wrong number in a header ends the process that reads it (9.7).
Checked with files of VTK 9.7, and by its reader.
"""

from __future__ import annotations

import base64
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import notice
from .stored import SYSTEMS, Format, Stored, replaced

# None goes on into a tag that is not its own, so that each sign is looked at a few times, whatever the file.
_IN = rb"[^<>]*"
_FILE = re.compile(rb"<VTKFile\b(?P<of>" + _IN + rb")>")
_PIECE = re.compile(rb"<Piece\b(" + _IN + rb")>")
_POINTS = re.compile(
    rb"<Points\b" + _IN + rb">\s*(?P<all><DataArray\b(?P<of>[^<>]*?)"
    rb"(?:/>|>(?P<text>[^<]*(?:<(?!/?DataArray\b)[^<]*)*)</DataArray>))"
)
_SPACE = re.compile(
    rb'<Array\b(?P<of>[^<>]*\bName="SPACE"[^<>]*?)(?:/>|>(?P<text>[^<]*(?:<(?!/?Array\b)[^<]*)*)</Array>)'
)
_APPENDED = re.compile(rb"<AppendedData\b" + _IN + rb'\bencoding="(\w+)"' + _IN + rb">\s*_")
_DIRECTED = re.compile(rb"<PointData\b" + _IN + rb'\b(Normals|Vectors|Tensors)="')
_NOTES = re.compile(  # ranges, of the numbers that were there
    rb"<InformationKey\b[^<>]*(?:/>|>[^<]*(?:<(?!/?InformationKey\b)[^<]*)*</InformationKey>)"
)
_TYPES = {"Float32": ("f4", "%.9g"), "Float64": ("f8", "%.17g"), "String": ("i1", "")}
_COMPRESSORS: dict[str | None, Callable[[], Any]] = {
    None: lambda: None,
    "vtkZLibDataCompressor": zlib.decompressobj,
    "vtkLZMADataCompressor": lambda: lzma.LZMADecompressor(memlimit=_MOST),
}
_MOST = 2**28  # bytes that LZMA may take for itself


class _Content(NamedTuple):
    """How numbers are encoded in a file, and what of them stands at its end."""

    order: str
    counts: np.dtype[Any]
    compressor: str | None
    at_end: bytes
    raw: bool

    def numbers(self, of: dict[str, str], text: bytes) -> np.ndarray:
        """Of an array with those attributes."""
        kind = np.dtype(self.order + _TYPES[of["type"]][0])
        text = _NOTES.sub(b"", text)
        if of["format"] == "ascii":
            return np.array(text.split(), np.float64)
        if of["format"] == "appended":
            block, raw = self.at_end[int(of["offset"]) :], self.raw
        else:
            block, raw = b"".join(text.split()), False
        return np.frombuffer(self._unpacked(block, raw), kind).astype(np.float64)

    def _unpacked(self, block: bytes, raw: bool) -> bytes:
        size = self.counts.itemsize
        if self.compressor is None:
            (count,) = self._counts(_taken(block, size, raw)[0], 1)
            return _taken(block, size + count, raw)[0][size:]
        (count,) = self._counts(_taken(block, size, raw)[0], 1)
        head, length = _taken(block, size * (3 + count), raw)
        _, whole, last, *sizes = self._counts(head, 3 + count)
        packed, at, parts = _taken(block[length:], sum(sizes), raw)[0], 0, []
        for number, each in enumerate(sizes):
            size = last if last and number == count - 1 else whole
            unpack = _COMPRESSORS[self.compressor]()
            try:
                part = unpack.decompress(packed[at : at + each], size + 1)
            except (zlib.error, lzma.LZMAError, OverflowError) as error:
                raise ValueError(f"{error}: the file is damaged") from error
            if len(part) != size or not unpack.eof:
                raise ValueError(f"a part that is not of {size} bytes, as its header says: the file is damaged")
            parts.append(part)
            at += each
        return b"".join(parts)

    def _counts(self, head: bytes, number: int) -> list[int]:
        found: list[int] = np.frombuffer(head, self.counts, number).tolist()
        return found


def _taken(block: bytes, size: int, raw: bool) -> tuple[bytes, int]:
    """The first bytes that something was, and how many it is now."""
    length = size if raw else 4 * -(-size // 3)
    if length > len(block):
        raise ValueError("fewer numbers than its header says: the file is damaged")
    return block[:size] if raw else base64.b64decode(block[:length], validate=True)[:size], length


def _attributes(text: bytes) -> dict[str, str]:
    return dict(re.findall(r"""(\w+)\s*=\s*["']([^"']*)["']""", text.decode()))


def _read(path: Path, asked: str | None) -> Stored:
    data = path.read_bytes()
    file, end = _FILE.search(data), _APPENDED.search(data)
    of = {} if file is None else _attributes(file["of"])
    if of.get("type") != "PolyData":
        raise ValueError(f"a file of {of.get('type')}")
    if of.get("compressor") not in _COMPRESSORS:
        raise ValueError(f"numbers compressed by {of['compressor']}, not by one of those that are read here")
    order = "<" if of.get("byte_order", "LittleEndian") == "LittleEndian" else ">"
    content = _Content(
        order,
        np.dtype(order + ("u8" if of.get("header_type") == "UInt64" else "u4")),
        of.get("compressor"),
        b"" if end is None else data[end.end() :],
        end is not None and end[1] == b"raw",
    )
    head = data if end is None else data[: end.start()]
    pieces, arrays = _PIECE.findall(head), list(_POINTS.finditer(head))
    if not pieces or len(pieces) != len(arrays):
        raise ValueError("no points in it")
    kinds, values = [_attributes(array["of"]) for array in arrays], []
    for piece, kind, array in zip(pieces, kinds, arrays, strict=True):
        if kind["type"] not in ("Float32", "Float64"):
            raise ValueError(f"points of {kind['type']}")
        found, count = content.numbers(kind, array["text"] or b""), int(_attributes(piece)["NumberOfPoints"])
        if len(found) != 3 * count:
            raise ValueError(f"{count} points and {len(found)} numbers in it: the file is damaged")
        values.append(found.reshape(-1, 3))
    if _DIRECTED.search(head):
        notice(f"{path}: normals, vectors and tensors of the file stay as they are: directions are not turned")
    ends = np.cumsum([len(each) for each in values])[:-1]

    def write(path: Path, moved: np.ndarray) -> None:
        sets = zip(arrays, kinds, np.split(moved, ends), strict=True)
        path.write_bytes(replaced(data, [(*array.span("all"), _element(kind, each)) for array, kind, each in sets]))

    whole = np.concatenate(values)
    return Stored(whole, _space(content, head), [""] * len(whole), write)


def _element(of: dict[str, str], values: np.ndarray) -> bytes:
    """An array of numbers of text."""
    kept = {name: value for name, value in of.items() if name not in ("format", "offset", "RangeMin", "RangeMax")}
    attributes = "".join(f' {name}="{value}"' for name, value in kept.items())
    digits = _TYPES[of["type"]][1]
    lines = "".join(" ".join(digits % value for value in row) + "\n" for row in values.tolist())
    return f'<DataArray{attributes} format="ascii">\n{lines}</DataArray>'.encode()


def _space(content: _Content, head: bytes) -> np.ndarray | None:
    """The system of coordinates that a file says."""
    space = _SPACE.search(head)
    if space is None:
        return None
    codes = content.numbers(_attributes(space["of"]), space["text"] or b"")
    return SYSTEMS.get(bytes(codes.astype(np.uint8)).strip(b"\0").decode().lower())


FORMAT = Format("VTK's file of a surface", (".vtp",), _read)
