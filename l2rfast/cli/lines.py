"""The options of ``l2rfast register`` as other commands have them, and its command lines, one for each pair of scans.

A pair is passed on as a command line: processes and clusters take it as it is, a study keeps it, and a user can give it
by hand.
"""

from __future__ import annotations

import inspect
import io
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args

import typer

from ..errors import InputError
from .names import Command, as_typed
from .register import register
from .sentence import told
from .shared_options import OF_METHODS, choice

# A command that has the options of register says these otherwise.
OWN = ("out", "quiet", "light_report", "fixed", "moving", "memory", "workers", "dask")


class Option(NamedTuple):
    """One of register.

    Attributes:
        name: as it is typed, without the dashes before it.
        kind: of its values: ``bool`` of a flag, which has none.
        several: whether it may be given more than once.
    """

    name: str
    kind: type
    several: bool


def parameters() -> list[inspect.Parameter]:
    """Of register, those that hold for all pairs of a cohort."""
    return [parameter for name, parameter in _signature().items() if name not in OWN]


@cache
def options() -> Mapping[str, Option]:
    """Of all these parameters, by their names in Python."""
    found = {}
    for parameter in parameters():
        hint, info = get_args(parameter.annotation)[:2]
        kinds = [kind for kind in (get_args(hint) if isinstance(hint, UnionType) else [hint]) if kind is not type(None)]
        several = typing.get_origin(kinds[0]) is list
        # Typer takes the first of the names that an annotation declares for the default.
        names = [name for name in (info.default, *(info.param_decls or ())) if str(name).startswith("--")]
        name = names[0] if names else parameter.name
        kind = get_args(kinds[0])[0] if several else kinds[0]
        found[parameter.name] = Option(name.lstrip("-").replace("_", "-"), kind, several)
    return found


def given(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Options as text, by the names that are typed, of values by their names in Python: those that are not what they
    are unless told. Paths become absolute, as another process may stand elsewhere."""
    text: dict[str, tuple[str, ...]] = {}
    usual = {parameter.name: parameter.default for parameter in parameters()}
    for name, option in options().items():
        value = values.get(name, usual[name])
        if value in (usual[name], [], ()):
            continue
        each = value if option.several else (value,)
        text[option.name] = tuple(os.path.abspath(one) if option.kind is Path else _said(one) for one in each)
    return text


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def line(given: Mapping[str, Sequence[str]]) -> list[str]:
    """The command line of options as text; a flag is ``"true"`` or ``"false"``."""
    flags = {option.name for option in options().values() if option.kind is bool}
    return [
        f"--{name}" if name in flags else f"--{name}={value}"
        for name, values in given.items()
        for value in values
        if name not in flags or value == "true"
    ]


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """The values of a command line, by their names in Python."""
    values: dict[str, Any] = _command().make_context("register", [*words]).params
    return values


def method(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `methods.registration.register` is given of these that says how to register.

    Raises:
        InputError: as of `choice`.
    """
    options = {name: values[name] for name in OF_METHODS}
    return choice(values["method"], values["preset"], values["transform"], options)


def check(words: Sequence[str]) -> None:
    """See whether register takes a command line, as far as that is known before images are read.

    Raises:
        InputError: it does not.
    """
    import torch

    from ..methods.registration import choose
    from ..methods.result import check_outside

    values: dict[str, Any] = {}
    try:
        values = parsed([*words, "--out=."])
        choose(**method(values))
        if values["outside"] is not None:
            check_outside(torch.float32, values["outside"])
    except Exception as error:
        raise InputError(as_typed(told(error), values)) from error


def run(words: Sequence[str]) -> str | None:
    """Register by a command line: None, or one sentence that says why that failed.

    The pages of thousands of pairs have no scans in them, which would be 10 GB of a thousand: ``l2rfast view`` shows
    those of a pair.
    """
    return outcome(lambda: _command().main([*words, "--quiet", "--light-report"], standalone_mode=False))


def outcome(job: Callable[[], object]) -> str | None:
    """Of a job: None, or one sentence that says why it failed.

    Of many pairs nobody reads warnings as they come: reports keep them.
    """
    try:
        with redirect_stderr(io.StringIO()):
            job()
    except Exception as error:
        return told(error)
    return None


@cache
def _command() -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command("register", cls=Command)(register)
    return typer.main.get_command(app)


@cache
def _signature() -> dict[str, inspect.Parameter]:
    hints = typing.get_type_hints(register, include_extras=True)
    every = inspect.signature(register).parameters
    return {name: parameter.replace(annotation=hints[name]) for name, parameter in every.items()}
