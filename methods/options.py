"""Fields of options that carry the text that the command line shows."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options: its default, and what it is in a sentence."""
    return field(default=default, metadata={"help": help})
