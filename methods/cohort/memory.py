"""Memory of a cohort: what a pair takes, what there is, and how many workers fit.

A process that registers takes a constant, for Python, PyTorch and the picture, and so many bytes for every voxel of the
images. The figures are bounds of what ``python -m bench.memory`` measures, whose report says how close they are.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from l2rfast import _check
from l2rfast._memory import available
from l2rfast.errors import InputError, InputWarning
from l2rfast.io import dicom
from l2rfast.io.formats import read_shape

from ..discrete.convex import WIDE
from ..discrete.options import AUTO, DiscreteOptions
from ..method import DEFORMABLE

_SIZE = re.compile(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
# Of a control group, of version 2 and 1: its limits, what it uses, and how that is told which is a file's in the cache.

# Bytes that a registration takes: of a process, of every voxel of fixed by what is done, and of every voxel of moving.
PROCESS, _LINEAR, _MOVING = 440e6, 130, 20
_METRIC = {"lncc": 110, "ssd": 270, "mi": 170, "mind": 60}
_CONTRAST, _MASKS = 35, 20  # for every one beside the first, and for masks and labels
_REGIONS = {"fixed-mask", "moving-mask", "nan-outside", "fixed-labels", "moving-labels"}
_FEATURES = 520  # of MIND's, for every voxel of the level of refine-spacing
_SEARCHED, _COST = 60, 4  # of fixed while the search has its costs, and of each of these


class Fit(NamedTuple):
    """How many workers there are to be, and why not as many as were wanted; empty where they are."""

    workers: int
    why: str


def predicted(fixed: Sequence[int], moving: Sequence[int], options: Mapping[str, Sequence[str]]) -> int | None:
    """Bytes that one process takes at most that registers a pair, with Python and PyTorch; None where nobody knows: of
    networks.

    Args:
        fixed, moving: sizes of the images, which may have further axes of length 1.
        options: of ``l2rfast register``, by their names as they are typed, without the dashes before them, with their
            values as text; the images and masks among them (``"fixed"``, ``"fixed-mask"``), a contrast a value.
    """

    def number(name: str, usual: int) -> int:
        with suppress(ValueError, LookupError):  # the registration itself says what is wrong
            return max(1, int(options[name][-1]))
        return usual

    if options.get("method", ("discrete",))[-1] != "discrete":
        return None
    voxels, usual = math.prod(fixed), DiscreteOptions()
    taken: float = _LINEAR
    if options.get("transform", (DEFORMABLE,))[-1] == DEFORMABLE:
        names = {*options.get("metric", (AUTO,))}
        names |= set() if names <= set(_METRIC) else {"lncc", "mind"}  # which it may come to
        axes = sum(n > 1 for n in fixed)
        features = _FEATURES / number("refine-spacing", usual.refine_spacing) ** axes
        taken = max(_METRIC.get(name, 0) + (features if name == "mind" else 0) for name in names)
        side = number("grid-spacing", usual.grid_spacing)
        reach = 2 * number("search-radius", WIDE) + 1
        taken = max(taken, _SEARCHED + _COST * (reach / side) ** axes)
    taken += _CONTRAST * max(0, len(options.get("fixed", ())) - 1)
    taken += _MASKS * bool(_REGIONS & set(options))
    return int(PROCESS + taken * voxels + _MOVING * math.prod(moving))


def workers(asked: int | None, per_pair: int, free: int, cores: int) -> Fit:
    """How many processes may register at a time, one at least.

    Args:
        asked: how many are wanted; None: one for each core.
        per_pair: bytes that one takes at most, see `predicted`.
        free: bytes that there are for all of them, see `available`.
        cores: that compute here.

    Raises:
        InputError: fewer than one are wanted.
    """
    wanted = cores if asked is None else _check.at_least("workers", asked, 1)
    fit = max(1, min(wanted, free // max(1, per_pair)))
    takes, are = (f"{size / 1e9:.3g} GB" for size in (per_pair, free))
    if per_pair > free:
        return Fit(fit, f"a pair may take {takes} of memory, more than the {are} that are free")
    return Fit(fit, "" if fit == wanted else f"{fit}, not {wanted}: a pair may take {takes} of memory, {are} are free")


def room(text: str | None) -> int:
    """Bytes that may be taken: as `parsed`, or what is `available` where nothing is said."""
    return available() if text is None else parsed(text)


def parsed(text: str) -> int:
    """Bytes, of ``"4GB"``, ``"512 MB"``, ``"1.5GiB"`` (1024 to the third) or ``"2e9"``.

    Raises:
        InputError: it is none of these, or less than a byte.
    """
    found = _SIZE.fullmatch(text.strip())
    number, unit, binary = found.groups() if found else ("0", None, None)
    bytes = float(number) * (1024 if binary else 1000) ** _POWERS[(unit or "").lower()]
    if not 1 <= bytes < math.inf:
        raise InputError(f"memory: expected a size like 4GB, 512MB, 1.5GiB or 2e9 (bytes), got {text!r}")
    return int(bytes)


def shape(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """Of an image, as its file has it, by its header alone; of a folder of slices by the first of them, and how many
    files it has. None where that does not tell.

    Args:
        path: of any format of docs/reference/input.md.
    """
    with warnings.catch_warnings(), suppress(InputError, OSError):
        warnings.simplefilter("ignore", InputWarning)  # who reads the image says it
        if not os.path.isdir(path):
            return read_shape(path)
        files = [file for file in sorted(Path(path).iterdir()) if not file.name.startswith(".")]
        for file in files:
            with suppress(InputError):
                return (*dicom.open_slice(str(file), file).shape[:2], len(files))
    return None
