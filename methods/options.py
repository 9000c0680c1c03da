"""Fields of options that carry the text that the command line shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, fields
from typing import Any

from l2rfast import _check
from l2rfast.errors import InputError


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options: its default, and what it is in a sentence."""
    return field(default=default, metadata={"help": help})


def make_plain(options: Any) -> None:
    """Have a dataclass of options, frozen or not, hold Python's numbers where it was given NumPy's and the like."""
    for one in fields(options):
        object.__setattr__(options, one.name, _check.plain(getattr(options, one.name)))


def from_preset(presets: Mapping[str, Mapping[str, Any]], name: str, *groups: type) -> tuple[Any, ...]:
    """The options of a preset, for Python: an instance of each dataclass.

    Raises:
        InputError: none of that name.
    """
    if name not in presets:
        raise InputError(f"preset: expected one of {', '.join(presets)}, got {name!r}")
    chosen = presets[name]
    return tuple(group(**{f.name: chosen[f.name] for f in fields(group) if f.name in chosen}) for group in groups)


def refuse(options: Any, names: Iterable[str], why: str) -> None:
    """Have it said where an option is told that counts for nothing.

    Raises:
        InputError: one of the names has another value than its default.
    """
    defaults = {one.name: one.default for one in fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise InputError(f"{name}: not used with {why}, got {getattr(options, name)!r}")
