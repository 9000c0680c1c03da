"""What was noticed about the input: said once each on the standard error, and kept for reports."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from ..errors import InputWarning
from .names import as_typed

_open: list[list[str]] = []  # the lists of those who listen, the outermost first


def say(text: str) -> None:
    """A line on the standard error, where that can be written: what is said there is no reason to end."""
    with suppress(OSError):
        typer.echo(text, err=True)


@contextmanager
def notices() -> Iterator[list[str]]:
    """The `InputWarning` of what runs inside, in order, each once. Where one is inside of another, both have them."""
    said: list[str] = []
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, InputWarning):
            others(message, category, *place, **more)
            return
        text = as_typed(str(message))
        if text not in said:
            say(f"l2rfast: warning: {text}")
        for heard in _open:
            if text not in heard:
                heard.append(text)

    _open.append(said)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", InputWarning)
            warnings.showwarning = show
            yield said
    finally:
        _open.remove(said)
