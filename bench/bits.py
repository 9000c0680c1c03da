"""Numbers as the bits that a GPU's registers hold, and arithmetic on them where Python's is another."""

from __future__ import annotations

import math
import struct


def f16(bits: int) -> float:
    return float(struct.unpack("<e", struct.pack("<H", bits & 0xFFFF))[0])


def f32(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))[0])


def f64(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])


def bf16(bits: int) -> float:
    return f32((bits & 0xFFFF) << 16)


def to_f16(value: float) -> int:
    try:
        return int.from_bytes(struct.pack("<e", value), "little")
    except OverflowError:
        return 0x7C00 if value > 0 else 0xFC00


def to_f32(value: float) -> int:
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return 0x7F800000 if value > 0 else 0xFF800000


def to_f64(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


def to_bf16(value: float) -> int:
    return to_f32(value) >> 16


def divided(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def integer(value: float, how: str) -> int:
    if not math.isfinite(value):
        return 0
    return {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[how](value)


def truncated(a: int, b: int) -> int:
    """a / b towards zero; of what is not defined, 0."""
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def inserted(field: int, into: int, at: int, width: int) -> int:
    """The low bits of one number in place of as many of another."""
    mask = (1 << width) - 1 << at
    return into & ~mask | field << at & mask


def permuted(a: int, b: int, selector: int) -> int:
    """Four bytes of the eight of b and a; or copies of their sign bits."""
    found = 0
    for i in range(4):
        how = selector >> 4 * i & 15
        byte = (b << 32 | a) >> 8 * (how & 7) & 255
        found |= ((255 if byte & 128 else 0) if how & 8 else byte) << 8 * i
    return found


def looked_up(a: int, b: int, c: int, table: int) -> int:
    """Bit by bit, what a table of eight says of those of three numbers."""
    found = 0
    for i in range(8):
        if table >> i & 1:
            found |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return found & 0xFFFFFFFF
