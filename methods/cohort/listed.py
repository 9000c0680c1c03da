"""The pairs of a cohort, as a table or a folder lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from l2rfast.errors import InputError

_ID = re.compile(r"\w[\w.-]*")
_LONGEST = 200  # bytes: file systems have 255 for a name, of which hidden folders beside take some


@dataclass(frozen=True)
class Listed:
    """A pair of scans to register.

    Attributes:
        id: what it is called, and its folder in the study: letters, digits, ``.``, ``_`` and ``-``.
        options: what ``l2rfast register`` is to be given for it alone, as text: by the option's name as it is typed,
            without the dashes before it (``"fixed"``, ``"moving"``, ``"fixed-labels"``, ``"window"``), one value or
            more; ``"true"`` or ``"false"`` of one that takes no value. Paths are absolute.
        where: it is listed, for messages: ``"pairs.csv, line 3"``.
    """

    id: str
    options: Mapping[str, tuple[str, ...]]
    where: str


def is_id(text: str) -> bool:
    """Whether a pair may be called so: a folder can."""
    return _ID.fullmatch(text) is not None and len(text.encode()) <= _LONGEST


def checked(pairs: list[Listed]) -> list[Listed]:
    """The same pairs.

    Raises:
        InputError: an id that no folder can have, or that two pairs have, in letters of any case, which some file
            systems do not tell apart.
    """
    places: dict[str, str] = {}
    for pair in pairs:
        if not is_id(pair.id):
            raise InputError(
                f"{pair.where}: expected an id of letters, digits, '_', '-' and '.', the first a letter, digit or '_', "
                f"of at most {_LONGEST} bytes, got {pair.id!r}"
            )
        if (other := places.setdefault(pair.id.casefold(), pair.where)) is not pair.where:
            raise InputError(f"{pair.where}: expected an id of its own, got {pair.id!r} as {other}")
    return pairs
