"""Scans that cannot be used: training stops at the first one, or goes on without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from l2rfast.errors import InputError, notice

from .cases import Pair, Pairs

STOP, SKIP = "stop", "skip"
DRAWS = 1000  # in a row: where none can be used, hardly any can

X = TypeVar("X")
T = TypeVar("T")


def skip(error: InputError, bad_scans: str) -> None:
    """Say what is skipped and why.

    Raises:
        InputError: that error, unless bad scans are to be skipped.
    """
    if bad_scans != SKIP:
        raise error
    notice(f"{error}; skipped")


def first_usable(wanted: Iterable[X], read: Callable[[X], T], bad_scans: str) -> tuple[X, T]:
    """The first one that can be read, and what was read.

    Args:
        wanted: cases or pairs, at least one.
        read: raises an `InputError` that names the file of those that cannot be used.
        bad_scans: ``"stop"`` or ``"skip"``.

    Raises:
        InputError: of the first one; where bad ones are skipped, that there are no others.
    """
    for each in wanted:
        try:
            return each, read(each)
        except InputError as error:
            skip(error, bad_scans)
            last = error
    raise InputError(f"data: expected scans that can be used, and found none; the last: {last}")


def drawn(pairs: Pairs, random: torch.Generator) -> Iterator[Pair]:
    """Random pairs to train on."""
    for _ in range(DRAWS):
        yield pairs.training[int(torch.randint(len(pairs.training), (), generator=random))]
