"""The command line: ``l2rfast register``, ``cohort``, ``template``, ``apply``, ``convert``, ``train`` and more.

What a user can cause ends in one sentence on the standard error and exit code 2, never in a traceback; an interrupt in
one of 130, as in shells.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import _interrupt, _threads, data
from .._info import info
from .apply import apply
from .cohort import cohort
from .evaluate import evaluate
from .names import Command
from .notices import notices
from .points import apply_points
from .register import register
from .sentence import sentence
from .template import template
from .train import train_app
from .transforms import compose, convert, describe, invert, jacobian


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            with notices(), _threads.threads():
                result = super().invoke(ctx)
            sys.stdout.flush()  # so that a closed pipe is found here, where it is handled
            return result
        except KeyboardInterrupt as error:
            typer.echo(_interrupt.SAID, err=True)
            raise typer.Exit(_interrupt.exit_code(error)) from error
        except BaseException as error:
            told = sentence(error)
            if told is None:
                raise
            typer.echo(f"l2rfast: error: {told}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    help="Fast registration of medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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


@app.command("info", cls=Command)
def _info() -> None:
    """List what runs here: versions, and the backends of every operation."""
    from rich.console import Console

    Console().print(info())


@data_app.command("list", cls=Command)
def _list() -> None:
    """List the files, with their size and where they are."""
    for name in data.names():
        file = data.local(name)
        typer.echo(f"{data.record(name).bytes / 1e6:6.2f} MB  {name}  {'not here' if file is None else file}")


@data_app.command("fetch", cls=Command)
def _fetch(name: str) -> None:
    """Download a file, unless it is here, and print its path."""
    typer.echo(data.fetch(name))


@data_app.command("path", cls=Command)
def _path(name: str) -> None:
    """Print the path of a file that is here."""
    typer.echo(data.path(name))


def main(words: Sequence[str] | None = None) -> None:
    """The entry point of the command ``l2rfast``, with the words of its command line, or others."""
    _interrupt.handle()
    # nibabel remarks on a damaged header before it fails; one sentence, ours, is enough.
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    app(words)


app.command("register", cls=Command)(register)
app.command("cohort", cls=Command)(cohort)
app.command("template", cls=Command)(template)
app.command("evaluate", cls=Command)(evaluate)
app.command("apply", cls=Command)(apply)
app.command("apply-points", cls=Command)(apply_points)
for command in (invert, compose, convert, jacobian, describe):
    app.command(command.__name__, cls=Command)(command)
