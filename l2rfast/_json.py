"""JSON that others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parsed(text: str, parse_int: Callable[[str], Any] = int) -> Any:
    """A document.

    Args:
        text: of it.
        parse_int: makes a number of its digits.

    Raises:
        ValueError: it is none, or has lists within lists without end.
    """
    try:
        return json.loads(text, parse_int=parse_int)
    except RecursionError as error:
        raise ValueError("lists within lists without end") from error
