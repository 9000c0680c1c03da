"""Fields of options that carry the text that the command line shows."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from l2rfast import _check


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options: its default, and what it is in a sentence."""
    return field(default=default, metadata={"help": help})


def make_plain(options: Any) -> None:
    """Have a dataclass of options, frozen or not, hold Python's numbers where it was given NumPy's and the like."""
    for one in fields(options):
        object.__setattr__(options, one.name, _check.plain(getattr(options, one.name)))
