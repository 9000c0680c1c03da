"""JSON that others wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any


def _integer(digits: str) -> int:
    number = int(digits)
    if not math.isfinite(float(digits)):
        raise ValueError(f"a number of {len(digits)} digits")
    return number


def parsed(text: str, parse_int: Callable[[str], Any] = _integer) -> Any:
    """A document.

    Args:
        text: of it.
        parse_int: makes a number of its digits.

    Raises:
        ValueError: it is none, has lists within lists without end, or a number that no float can be.
    """
    try:
        return json.loads(text, parse_int=parse_int)
    except RecursionError as error:
        raise ValueError("lists within lists without end") from error
