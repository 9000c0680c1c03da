"""The headers of MetaImage and NRRD, looked at before ITK reads them: what they promise is in their files.

ITK takes the memory that a header asks for before it looks for the values, follows whatever path it names, and some
numbers and words that are none end the process.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from ..errors import InputError
from .reading import check_memory, room

_LONGEST = 2**20  # bytes of a header
_LINE = 1024  # signs of a line that holds no text of the user's
_AXES = 4  # more of space and channels no image has that is read here
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_META_NUMBERS = re.compile(
    "(NDims|DimSize|ID|ParentID|Color|Position|Offset|Origin|Orientation|Rotation|TransformMatrix|CenterOfRotation|"
    "Element(Spacing|Size|Min|Max|NumberOfChannels)|HeaderSize|CompressedDataSize|SequenceID)"
)
_META_WORDS = re.compile(
    "(ObjectType|ObjectSubType|TransformType|Binary(Data|DataByteOrderMSB)|ElementByteOrderMSB|CompressedData|"
    "AnatomicalOrientation|DistanceUnits|Modality|ElementType|ElementDataFile|CompressionLevel|ElementToIntensityFunction.*)"
)
_NRRD_BYTES = {
    1: "signed char|int8|int8_t|uchar|unsigned char|uint8|uint8_t",
    2: "short|short int|signed short|signed short int|int16|int16_t|ushort|unsigned short|unsigned short int|uint16|"
    "uint16_t",
    4: "int|signed int|int32|int32_t|uint|unsigned int|uint32|uint32_t|float",
    8: "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t|ulonglong|"
    "unsigned long long|unsigned long long int|uint64|uint64_t|double",
}  # fmt: skip
_NRRD_NUMBERS = re.compile(
    "(dimension|sizes|space ?dimension|spacings|thicknesses|axis ?(mins|maxs)|byte ?skip|line ?skip|number)"
)
_NRRD_WORDS = re.compile(
    "(type|space|space directions|space origin|measurement frame|kinds|endian|encoding|data ?file|centers|centerings|"
    "labels|units|space units|min|max|old ?min|old ?max|block ?size|content|sample units)"
)
_VECTOR = rf"\(\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\)|none"
_VECTORS = re.compile(rf"(?:(?:{_VECTOR})\s*)+")


def check_meta(name: str, path: Path) -> None:
    """Of a MetaImage.

    Raises:
        InputError: it names a file in another folder, or needs more memory than there is.
        ValueError: it is damaged, or its values are not there.
    """
    fields, end = {}, 0
    for line in _lines(path):
        end += len(line)
        key, _, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if key in fields or not re.fullmatch(r"[\w .:/()\[\]-]*", key):
            raise ValueError(f"two lines of {key}, or none that are known")
        if _META_NUMBERS.fullmatch(key):
            _check_numbers(key, value)
        elif _META_WORDS.fullmatch(key) and len(value) > _LINE:
            raise ValueError(f"a {key} of {len(value)} signs")
        fields[key] = value
        if key == "ElementDataFile":
            break
    axes, kind = int(fields["NDims"]), fields["ElementType"].removeprefix("MET_").removeprefix("U")
    sizes = [int(size) for size in fields["DimSize"].split()]
    spacings = (fields.get(key, "").split() for key in ("ElementSpacing", "ElementSize"))
    if not 1 <= axes <= _AXES or len(sizes) != axes or min(sizes) < 1 or any(len(s) not in (0, axes) for s in spacings):
        raise ValueError(f"{axes} axes of the sizes {sizes}")
    if kind.removesuffix("_ARRAY") not in _META_BYTES:
        raise ValueError(f"values of the type {kind}")
    channels = int(fields.get("ElementNumberOfChannels", 1))
    needed = math.prod(sizes) * channels * _META_BYTES[kind.removesuffix("_ARRAY")]
    data = fields["ElementDataFile"]
    files = [path] if data.upper() == "LOCAL" else _named(name, path, data, end)
    _check_held(name, needed, files, packed=fields.get("CompressedData", "").lower() in ("true", "1"))


def check_nrrd(name: str, path: Path) -> None:
    """Of an NRRD image; as `check_meta`."""
    fields, end = {}, 0
    for number, line in enumerate(_lines(path)):
        end += len(line)
        text = line.decode("latin-1").strip()
        if not text:
            break
        if number == 0 and not re.fullmatch(r"NRRD000[1-5]", text):
            raise ValueError(f"another format, {text!r}")
        key, sep, value = text.partition(":")
        if number == 0 or text.startswith("#") or value.startswith("="):
            continue
        key, value = key.strip().lower(), value.strip()
        if not sep or len(value) > _LINE or not (_NRRD_NUMBERS.fullmatch(key) or _NRRD_WORDS.fullmatch(key)):
            raise ValueError(f"a line of {len(text)} signs")
        if _NRRD_NUMBERS.fullmatch(key):
            _check_numbers(key, value.replace("nan", "0").replace("NaN", "0"))
        elif key in ("space directions", "space origin", "measurement frame") and not _VECTORS.fullmatch(value):
            raise ValueError(f"{key} of {value!r}")
        fields[key.replace(" ", "")] = value
        if key.replace(" ", "") == "datafile" and value.upper().startswith("LIST"):
            break
    sizes = [int(size) for size in fields["sizes"].split()]
    if len(sizes) != int(fields["dimension"]) or not 1 <= len(sizes) <= _AXES or min(sizes) < 1:
        raise ValueError(f"{fields['dimension']} axes of the sizes {sizes}")
    itemsize = next((n for n, kinds in _NRRD_BYTES.items() if fields["type"] in kinds.split("|")), 0)
    if not itemsize:
        raise ValueError(f"values of the type {fields['type']!r}")
    data = fields.get("datafile")
    files = [path] if data is None else _named(name, path, data, end)
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz", "bzip2", "bz2", "ascii", "text", "txt", "hex"):
        raise ValueError(f"values encoded as {encoding!r}")
    _check_held(name, math.prod(sizes) * itemsize, files, packed=encoding[0] in "gb", text=encoding[0] in "at")


def _lines(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return file.read(_LONGEST).splitlines(keepends=True)


def _check_numbers(key: str, value: str) -> None:
    if len(value) > _LINE:
        raise ValueError(f"{key} of {value[:80]!r}")
    for number in value.split():
        if not (re.fullmatch(_NUMBER, number) and abs(float(number)) < 1e300):
            raise ValueError(f"{key} of {number}")


def _named(name: str, path: Path, data: str, end: int) -> list[Path]:
    """The files of values, beside the header: one, those of a list behind it, or of a pattern, as ``%03d 1 9 1``."""
    if data.upper().startswith("LIST"):
        lines = b"".join(_lines(path))[end:].decode(errors="surrogateescape").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    elif (pattern := re.fullmatch(r"([^%]*%0?\d?d[^%]*)((?:\s+-?\d+){3})(?:\s+\d+)?", data)) is not None:
        first, last, step = (int(number) for number in pattern[2].split())
        if not step or not 0 < (last - first) // step + 1 <= 2**16:
            raise ValueError(f"files {data!r}")
        names = [pattern[1] % number for number in range(first, last + (1 if step > 0 else -1), step)]
    else:
        names = [data]
    for each in names:
        if os.path.isabs(each) or ".." in re.split(r"[/\\]", each):
            raise InputError(f"{name}: expected values in the folder of the header, or below, got {each!r}")
        if len(each.encode(errors="surrogateescape")) > 255:
            raise ValueError("a name that no file has")
    return [path.with_name(each) if os.sep not in each else path.parent / each for each in names]


def _check_held(name: str, needed: int, files: list[Path], *, packed: bool, text: bool = False) -> None:
    held: float = sum(file.stat().st_size for file in files) * (1032 if packed else 4 if text else 1)
    held = max(held, sum(map(room, files))) if packed else held
    if needed > held:
        raise ValueError(f"{needed} bytes, of which {held} are there")
    check_memory(name, needed)
