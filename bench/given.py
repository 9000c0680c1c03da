"""What commands of this folder are given, refused in a sentence before anything is computed: types for argparse."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

from l2rfast import InputError
from l2rfast.methods.registration import usable


def times(text: str) -> int:
    """How often, or how many: at least once."""
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def device(text: str) -> str:
    """Where PyTorch can compute here."""
    try:
        return str(usable(text))
    except InputError as error:
        raise ArgumentTypeError(str(error).removeprefix("device: ")) from error


def file(text: str | Path) -> Path:
    """To be written, in a folder that is there."""
    found = Path(text)
    if found.is_dir() or not found.parent.is_dir():
        raise ArgumentTypeError(f"expected a file in a folder that is there, got {str(text)!r}")
    return found
