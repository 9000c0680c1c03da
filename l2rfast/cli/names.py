"""What a user typed in place of what the code calls it: messages name options as ``--fixed-labels``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from typer.core import TyperCommand

from ..errors import BackendError, InputError

# What a message begins with, and, behind "NAME (PATH): ", what the message within it does.
_NAMES = re.compile(r"(?:^|(?<=\): ))[a-z_]+(?:, [a-z_]+)*(?=:| \()")

_OTHERS = {"path": "weights"}  # what loads a network calls its file


class Command(TyperCommand):
    """A command whose errors and warnings name its options as they are typed."""

    running: ClassVar[Command | None] = None
    given: ClassVar[dict[str, Any]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """
        Raises:
            InputError: a path is an empty text, as a variable of a shell that is not set: Python takes it for the
                folder that one is in.
        """
        given, *_ = self.make_parser(ctx).parse_args(args=[*args])
        rest = super().parse_args(ctx, args)
        for each in self.params:
            empty = "" in _values(given.get(each.name))
            if empty and any(isinstance(value, Path) for value in _values(ctx.params.get(each.name))):
                name = max(each.opts, key=len) if each.param_type_name == "option" else str(each.name).upper()
                raise InputError(f"{name}: expected a path, got an empty text")
        return rest

    def invoke(self, ctx: Any) -> Any:
        Command.running, Command.given = self, ctx.params
        try:
            return super().invoke(ctx)
        except (InputError, BackendError) as error:
            raise type(error)(as_typed(str(error))) from error
        finally:
            Command.running, Command.given = None, {}


def _values(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list | tuple) else (given,)


def as_typed(text: str, given: Mapping[str, Any] | None = None) -> str:
    """A message of the command that runs: the names of its options, where it begins, as they are typed.

    Arguments have no other name, and where no command runs nothing has.

    Args:
        given: the values of the options that it is about, by their names in Python, if not those of the command.
    """
    params = [] if Command.running is None else Command.running.params
    options = {each.name: max(each.opts, key=len) for each in params if each.param_type_name == "option"}
    typed = {name: options[option] for name, option in _OTHERS.items() if option in options} | options
    if (Command.given if given is None else given).get("weight"):  # of contrasts, where no network has weights
        typed["weights"] = typed["weight"]
    return _NAMES.sub(lambda found: ", ".join(typed.get(name, name) for name in found[0].split(", ")), text)
