"""Damage to files: bits, sizes, numbers of headers, words of texts, members of archives. The same by the same seed."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from random import Random
from typing import Any

ODD = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
ODD_FLOATS = (0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-320, 1e30, 3e38, 1e308, -1.0, 0.5)
WORDS = (
    "nan", "inf", "-inf", "1e999", "-1", "0", "", "1_000", "٣", "0x10", "1e308", "1e-320", "--", "NULL", "true",
    "é\u202e", "9" * 25, "9" * 5000, "a" * 3000, "../../x", "/", "-x", '"', "''", ";", "#", "\0", "\t", "\r", "\n\n",
    "\x1b[31m", "\ufeff",
    " " * 2000, "(" * 300, "[" * 300, "1 " * 50, "1000000000 1000000000 1000000000",
)  # fmt: skip
NUMBER = re.compile(rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
WORD = re.compile(rb"[\w.+-]+")
_DEPTH = 100_000
_LONGEST = 2**20  # bytes that a line becomes
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 2**63, float("nan"), float("inf"), 1.5, "", "x", "\0", "../../x", "/no/x", "a" * 3000,
    [], {}, [[]], {"a": 1}, [1, "x", None], "é\ud800",
)  # fmt: skip


def mutated(data: bytes, rng: Random, fields: tuple[tuple[int, str], ...] = ()) -> bytes:
    """A file with some damage.

    Args:
        data: of a file that can be read. What it is, its first bytes tell: archives are damaged inside as well.
        rng: by which the damage is chosen.
        fields: of a binary header, where they are and their format as `struct` has it.
    """
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.7:
        return _repacked(data, rng, fields)
    if data[:4] == b"PK\x03\x04" and rng.random() < 0.6:
        return _rezipped(data, rng)
    if data[:1] in b"{[" and data.isascii() and rng.random() < 0.7:
        try:
            return _json(data, rng)
        except ValueError:
            pass
    changed = data
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if fields and rng.random() < 0.6:
            changed = _field(changed, rng, fields)
        elif rng.random() < (0.7 if _is_text(data) else 0.15):
            changed = _text(changed, rng)
        else:
            changed = _bytes(changed, rng)
    return changed


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:1024] and sum(byte > 126 for byte in data[:1024]) < 16


def _field(data: bytes, rng: Random, fields: tuple[tuple[int, str], ...]) -> bytes:
    at, kind = rng.choice(fields)
    size = struct.calcsize(kind)
    if at + size > len(data):
        return data
    return data[:at] + _packed(kind, rng) + data[at + size :]


def _packed(kind: str, rng: Random) -> bytes:
    if kind[-1] in "fd":
        value: float = rng.choice((*ODD_FLOATS, rng.uniform(-1e4, 1e4)))
        return struct.pack(kind, value if kind[-1] == "d" or not abs(value) > 3.4e38 else float("inf"))
    bits = 8 * struct.calcsize(kind)
    value = rng.choice((*ODD, rng.randrange(2**bits), rng.randrange(20))) % 2**bits
    return struct.pack(kind.upper() if kind[-1].isupper() else kind[:-1] + kind[-1].upper(), value)


def _bytes(data: bytes, rng: Random) -> bytes:
    """Bits, numbers anywhere, truncation, insertion, removal, repetition."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 16, rng.randrange(1, 1 + len(data))))
    kind = rng.randrange(8)
    if rng.random() < 0.3:  # where headers are
        at = rng.randrange(min(len(data), 400))
    if kind <= 1:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + bytes([rng.choice((0, 1, 127, 128, 255, 48, 45, 10, 32))]) + data[at + 1 :]
    if kind == 3:
        new = _packed(rng.choice("<>") + rng.choice("hiqfd"), rng)
        return data[:at] + new + data[at + len(new) :]
    if kind == 4:
        return data[:at]
    if kind == 5:
        return data[:at] + bytes(rng.choice((0, rng.randrange(256))) for _ in range(min(length, 64))) + data[at:]
    if kind == 6:
        return data[:at] + data[at + length :]
    return data[: at + length] + data[at : at + length] + data[at + length :]


def _text(data: bytes, rng: Random) -> bytes:
    """Numbers and words by others; lines twice, not at all, or elsewhere."""
    kind = rng.randrange(6)
    if kind <= 3:
        found = list((NUMBER if kind <= 1 else WORD).finditer(data, 0, 4096 if rng.random() < 0.8 else len(data)))
        if found:
            begin, end = rng.choice(found).span()
            odd = str(rng.choice((*ODD, *ODD_FLOATS, rng.randrange(100)))) if rng.random() < 0.5 else rng.choice(WORDS)
            return data[:begin] + odd.encode("utf-8") + data[end:]
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at = rng.randrange(len(lines))
    if kind == 4:
        most = 3 + _LONGEST // len(lines[at])  # of a text of one line
        return b"".join(lines[:at] + [lines[at]] * min(rng.choice((0, 2, 3, 300)), most) + lines[at + 1 :])
    other = rng.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]
    return b"".join(lines)


def _repacked(data: bytes, rng: Random, fields: tuple[tuple[int, str], ...]) -> bytes:
    """What gzip holds, damaged; in one member, in two, with something behind, or with much more behind."""
    try:
        inside = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return _bytes(data, rng)
    kind = rng.randrange(8)
    if kind == 0:
        at = rng.randrange(len(inside) + 1)
        return gzip.compress(inside[:at], 1, mtime=0) + gzip.compress(inside[at:], 1, mtime=0)
    if kind == 1:
        return data + rng.choice((bytes(9), b"\x1f\x8b", b"more", data))
    if kind == 2:
        return gzip.compress(inside + bytes(rng.choice((1, 2**16, 2**23))), 1, mtime=0)
    if kind == 3:
        return data[:-8] + rng.randbytes(8)
    return gzip.compress(mutated(inside, rng, fields), 1, mtime=0)


def _rezipped(data: bytes, rng: Random) -> bytes:
    """What a zip archive holds, a member of it damaged, or its name."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as files:
            members = {name: files.read(name) for name in files.namelist()}
    except Exception:  # damaged by an earlier step
        return _bytes(data, rng)
    made, chosen = io.BytesIO(), rng.choice(list(members))
    way = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w", way) as files:
        for name, content in members.items():
            damaged = name == chosen and rng.random() < 0.9
            called = rng.choice(("../x.npy", "/x.npy", "a", name * 2)) if rng.random() < 0.1 else name
            called = name if called in files.NameToInfo else called
            files.writestr(called, mutated(content, rng) if damaged else content)
    return made.getvalue()


def _json(data: bytes, rng: Random) -> bytes:
    """A part of a JSON document by another, without it, with another key, or within lists without end."""
    document = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            visit(node[key])

    visit(document)
    deep = "\x00deep"
    odd: Any = rng.choice((*_VALUES, deep))
    if not places or rng.random() < 0.03:
        document = odd
    else:
        node, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del node[key]
        elif kind == 1:
            node[key] = [node[key]] * rng.choice((1, 2, 50))
        elif kind == 2 and isinstance(node, dict):
            node[str(odd)[:50]] = node[key]
        else:
            node[key] = odd
    text = json.dumps(document)
    nested = "[" * _DEPTH + "]" * _DEPTH if rng.random() < 0.5 else '{"a":' * _DEPTH + "1" + "}" * _DEPTH
    text = text.replace(json.dumps(deep), nested)
    if rng.random() < 0.05:
        text = re.sub(r"(?<=[ \[])\d+", "9" * 5000, text, count=1)
    return text.encode()
