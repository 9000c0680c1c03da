"""What files of scans are called, and names in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from l2rfast.io import FORMATS

NAMED = 3  # of the names that a sentence is about, the others are counted

_ENDINGS = (*chain(*FORMATS), ".csv")

Entities = dict[str, str]


def stem(file: Path) -> str:
    """The name without .nii, .nii.gz, .csv or what else an image's ends with, in letters of any case."""
    name = file.name[:-3] if file.name.lower().endswith(".gz") else file.name
    lower = name.lower()
    return name[: len(name) - len(next(filter(lower.endswith, _ENDINGS), ""))]


def parts(file: Path) -> tuple[Entities, str]:
    """What BIDS has in a name: the entities, as ``sub-01`` and ``ses-2``, and the suffix behind them."""
    *pairs, suffix = stem(file).split("_")
    return dict(part.split("-", 1) for part in pairs if "-" in part), suffix


def some(names: Iterable[str]) -> str:
    """The first few, and how many there are more."""
    rest = iter(names)
    first = ", ".join(islice(rest, NAMED))
    more = sum(1 for _ in rest)
    return f"{first} and {more} more" if more else first
