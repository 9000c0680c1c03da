"""The command line: ``l2rfast register``, ``cohort``, ``template``, ``apply``, ``convert``, ``train`` and more.

What a user can cause ends in one sentence on the standard error and exit code 2, never in a traceback; an interrupt in
one of 130, as in shells. With ``--json`` the standard output has one document whatever happens: what the command
answers, or ``{"error": "..."}``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import _interrupt, _threads, data
from .._info import info
from .answer import Answer, answering, document
from .apply import apply
from .cohort import cohort
from .evaluate import evaluate
from .names import Command
from .notices import notices, say
from .points import apply_points
from .register import register
from .sentence import sentence, told
from .template import template
from .train import discrete, unsupervised, weakly_supervised
from .transforms import compose, convert, describe, invert, jacobian
from .view import view

Name = Annotated[str, typer.Argument(help="Of the file, as l2rfast data list has it.")]
JSON = "l2rfast.json"  # whether --json was given, in what the contexts of a command line share


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[JSON] = "--json" in args  # known also of a command line that cannot be read
        try:
            return super().parse_args(ctx, args)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            _fail(ctx, told(error))
            raise

    def invoke(self, ctx: Any) -> Any:
        if ctx.obj is not None:
            ctx.obj()  # not before: only here a sentence is made of an interrupt
        try:
            with notices(), _threads.threads():
                result = super().invoke(ctx)
            sys.stdout.flush()  # so that a closed pipe is found here, where it is handled
            return result
        except KeyboardInterrupt as error:
            said = _interrupt.said(error)
            say(f"l2rfast: {said}")
            _fail(ctx, said)
            raise typer.Exit(_interrupt.exit_code(error)) from error
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            _fail(ctx, told(error))
            if (known := sentence(error)) is None:
                raise
            say(f"l2rfast: error: {known}")
            raise typer.Exit(2) from error


def _fail(ctx: Any, error: str) -> None:
    """With --json the document of a command that failed: why."""
    if ctx.meta[JSON]:
        with suppress(OSError):  # where it cannot be written, as on a full disk, the standard error says so
            typer.echo(document({"error": error}))


app = typer.Typer(
    cls=_Commands,
    help="Fast registration of medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train the network of a method.", no_args_is_help=True)
data_app = typer.Typer(help="Public scans and network weights.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"l2rfast {metadata.version('l2rfast')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, no more.")
    ] = False,
) -> None:
    pass


def _info() -> Answer:
    """List what runs here: versions, and the backends of every operation."""
    found = info()
    return Answer(asdict(found), found)


def _list() -> Answer:
    """List the files, with their size and where they are."""
    found = {name: (data.record(name).bytes, data.local(name)) for name in data.names()}
    lines = [f"{size / 1e6:6.2f} MB  {name}  {path or 'not here'}" for name, (size, path) in found.items()]
    files = [{"name": name, "bytes": size, "path": path} for name, (size, path) in found.items()]
    return Answer({"files": files}, "\n".join(lines))


def _fetch(name: Name) -> Answer:
    """Download a file, unless it is here, and print its path."""
    path = data.fetch(name)
    return Answer({"path": path}, str(path))


def _path(name: Name) -> Answer:
    """Print the path of a file that is here."""
    path = data.path(name)
    return Answer({"path": path}, str(path))


def main(words: Sequence[str] | None = None) -> None:
    """The entry point of the command ``l2rfast``, with the words of its command line, or others."""
    _open_streams()
    # nibabel remarks on a damaged header before it fails; one sentence, ours, is enough.
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    app(words, obj=_interrupt.handle)


def _open_streams() -> None:
    """Where the standard input, output or error is closed, as by ``2>&-``, what goes there goes nowhere: else the next
    file that is opened takes its number, and what libraries write to it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # as long as the process is there
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _add(group: typer.Typer, commands: Mapping[str, Callable[..., Answer | None]]) -> None:
    for name, command in commands.items():
        group.command(name, cls=Command)(answering(command))


_add(app, {"register": register, "cohort": cohort, "template": template, "evaluate": evaluate})
_add(app, {"view": view})
_add(app, {"apply": apply, "apply-points": apply_points})
_add(app, {"invert": invert, "compose": compose, "convert": convert, "jacobian": jacobian, "describe": describe})
_add(app, {"info": _info})
_add(data_app, {"list": _list, "fetch": _fetch, "path": _path})
_add(train_app, {"unsupervised": unsupervised, "discrete": discrete, "weakly-supervised": weakly_supervised})
