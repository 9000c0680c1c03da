"""The elements of a DICOM file, looked at before GDCM reads them, which takes the memory that each says it needs."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

_MAGIC, _PREAMBLE = b"DICM", 128
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")  # 32-bit lengths
_SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_SYNTAX, _PIXELS = (0x0002, 0x0010), (0x7FE0, 0x0010)
_ITEMS, _ITEM = 0xFFFE, 0xE000  # group of what parts sequences, and the element that begins an item
_IMPLICIT, _BIG, _DEFLATED = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
_UNDEFINED = 0xFFFFFFFF
_PACKED = 1032


def check_elements(path: Path) -> bool:
    """That every element is in the file.

    Returns:
        Whether the pixels are as many bytes as they need, which they are not where they are compressed.

    Raises:
        ValueError: one is longer than what is left of the file.
    """
    data, at = path.read_bytes(), 0
    if data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC:
        syntax, at = _syntax(data)
        if not syntax:  # GDCM guesses then, and takes memory for what it reads so
            raise ValueError("a file that does not say how it is encoded")
    else:
        syntax = b"" if re.match(rb"[A-Z]{2}", data[4:6]) else _IMPLICIT
    if syntax == _DEFLATED:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = data[:at] + unpack.decompress(data[at:], _PACKED * len(data))
        except zlib.error as error:
            raise ValueError("deflated, and damaged") from error
    plain, fragments = True, False
    order = ">" if syntax == _BIG else "<"
    while at + 8 <= len(data):
        group, element = struct.unpack_from(f"{order}HH", data, at)
        implicit = syntax == _IMPLICIT or group == _ITEMS
        kind, length, begin = _element(data, at, order, implicit)
        if group == _ITEMS:  # what is in an item are elements, but of compressed pixels
            if element == _ITEM and fragments:
                begin += _inside(data, begin, length)
            fragments &= element == _ITEM
        elif length == _UNDEFINED:
            fragments = (group, element) == _PIXELS
            plain &= not fragments
        else:
            _inside(data, begin, length)
            sequence = kind == b"SQ" or data[begin : begin + 4] == struct.pack(f"{order}HH", _ITEMS, _ITEM)
            begin += 0 if sequence else length
        at = begin
    return plain


def _syntax(data: bytes) -> tuple[bytes, int]:
    """How what is behind the first group is encoded, and where that begins."""
    at, found = _PREAMBLE + 4, b""
    while at + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, at)
        if group != _SYNTAX[0]:
            break
        _, length, begin = _element(data, at, "<", False)
        at = begin + _inside(data, begin, length)
        if (group, element) == _SYNTAX:
            found = data[begin:at].rstrip(b"\0 ")
    return found, at


def _element(data: bytes, at: int, order: str, implicit: bool) -> tuple[bytes, int, int]:
    """The kind of an element, its length and where its value begins."""
    kind = data[at + 4 : at + 6]
    if implicit or not re.match(rb"[A-Z]{2}", kind):
        return b"", struct.unpack_from(f"{order}I", data, at + 4)[0], at + 8
    if kind in _LONG:
        if at + 12 > len(data):
            raise ValueError("a file that ends within an element")
        return kind, struct.unpack_from(f"{order}I", data, at + 8)[0], at + 12
    if kind not in _SHORT:
        raise ValueError(f"an element of the kind {kind!r}")
    return kind, struct.unpack_from(f"{order}H", data, at + 6)[0], at + 8


def _inside(data: bytes, begin: int, length: int) -> int:
    if length > len(data) - begin:
        raise ValueError(f"an element of {length} bytes, of which {len(data) - begin} are there")
    return length
