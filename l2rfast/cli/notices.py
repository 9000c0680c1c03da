"""What was noticed about the input: said once each on the standard error, and kept for reports."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ..errors import InputWarning
from .names import as_typed


@contextmanager
def notices() -> Iterator[list[str]]:
    """The `InputWarning` of what runs inside, in order, each once."""
    said: list[str] = []
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, InputWarning):
            others(message, category, *place, **more)
        elif (text := as_typed(str(message))) not in said:
            said.append(text)
            typer.echo(f"l2rfast: warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = show
        yield said
