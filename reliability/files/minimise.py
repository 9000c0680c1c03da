"""The smallest damage that still fails."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .inputs import Input, Inputs
from .run import Failure, attempts
from .targets import TARGETS

TRIES = 20


def minimised(failure: Failure, seed: int) -> str:
    """What in a file is another than in the seed, once most of it is undone."""
    import tempfile

    number = TARGETS.index(failure.target)
    with tempfile.TemporaryDirectory(prefix="files-") as folder:
        made = Inputs(Path(folder)).make(failure.target, failure.index, seed)
        before, after, name = made.seed, made.data, made.file.relative_to(Path(folder) / "work")
    left = TRIES

    def fails(data: bytes) -> bool:
        nonlocal left
        left -= 1
        case = (number, failure.index)
        made = partial(_with, failure=failure, seed=seed, data=data)
        return left >= 0 and any(o.kind == failure.outcome.kind for _, o in attempts([case], made))

    if len(before) == len(after):
        places = [k for k in range(len(before)) if before[k] != after[k]]
        size = len(places)
        while size >= 1 and left > 0:
            for start in range(0, len(places), size):
                fewer = places[:start] + places[start + size :]
                if fewer and fails(_mixed(before, after, fewer)):
                    places = fewer
                    break
            else:
                size //= 2
        text = ", ".join(f"{k}: {before[k]:02x} -> {after[k]:02x}" for k in places[:12])
        return f"{name}, {len(places)} bytes of {len(before)}: {text}"
    begin = next(
        (k for k, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    end = 0
    while end < min(len(before), len(after)) - begin and before[-1 - end] == after[-1 - end]:
        end += 1
    new = after[begin : len(after) - end]
    step = len(new) // 2
    while step >= 1 and left > 0:
        for start in range(0, len(new), step):
            shorter = new[:start] + new[start + step :]
            if fails(after[:begin] + shorter + after[len(after) - end :]):
                new = shorter
                break
        else:
            step //= 2
    old = before[begin : len(before) - end]
    return f"{name}, from {begin}: {len(old)} bytes {old[:40]!r} -> {len(new)} bytes {new[:80]!r}"


def _mixed(before: bytes, after: bytes, places: list[int]) -> bytes:
    data = bytearray(before)
    for place in places:
        data[place] = after[place]
    return bytes(data)


def _with(inputs: Inputs, case: object, *, failure: Failure, seed: int, data: bytes) -> Input:
    made = inputs.make(failure.target, failure.index, seed)
    return inputs.again(made, data)
