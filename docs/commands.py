"""The directive ``command``: the usage, arguments and options of a command of l2rfast, as it declares them.

A page of docs/cli has it with the words of the command: ``data fetch``. (sphinx-click knows Click's commands, and
Typer's are of its own copy of Click.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from l2rfast import cli

NOTES = re.compile(r"  \[(.*)\]$")  # of Click, behind the help of an option


class _Command(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words = self.arguments[0]
        if words not in (every := commands()):
            raise ExtensionError(f"command: expected one of {', '.join(every)}, got {words!r}")
        found = nodes.container()
        lines = StringList([*_page(words, every[words])], source=f"l2rfast {words}")
        self.state.nested_parse(lines, self.content_offset, found)
        return found.children


def commands() -> dict[str, Any]:
    """All of them, by their words, in order."""

    def below(group: Any, before: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from below(command, f"{before}{name} ")
            else:
                yield before + name, command

    return dict(below(typer.main.get_command(cli.app), ""))


def _page(words: str, command: Any) -> Iterator[str]:
    """Lines of Markdown."""
    context = typer.Context(command, info_name=f"l2rfast {words}")
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    usage = re.sub(r"[\[{][a-z_]+[\]}]", lambda name: name[0].upper(), usage)
    yield from ("```text", usage, "```", "", *_text(command.help).splitlines(), "")
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        listed = [each for each in command.params if each.param_type_name == kind]
        if listed:
            yield from (f"**{title}**", "")
        for each in listed:
            typed, told = each.get_help_record(context)
            notes = NOTES.search(told)
            typed = re.sub(r"<list\[(\w+)\]>", lambda of: f"<{of[1].lower()}>", typed)
            if kind == "argument":
                typed = typed.replace(each.name, each.name.upper(), 1)
            said = [_text(NOTES.sub("", told)), *([_noted(notes[1])] if notes else [])]
            yield from (f"`{typed}`", f": {' '.join(said)}", "")


def _text(told: str) -> str:
    """Plain text as Markdown; the options in it are code."""
    return re.sub(r"(?<!\S)(--[a-z-]+)", r"`\1`", re.sub(r"([\\`*_\[\]<>$|])", r"\\\1", told))


def _noted(notes: str) -> str:
    """``default: 3; required`` as a sentence each."""
    said = []
    for note in notes.split("; "):
        name, _, value = note.partition(": ")
        value = value.removeprefix("(").removesuffix(")")
        said.append(f"{name.capitalize()}: `{value}`." if value else f"{name.capitalize()}.")
    return " ".join(said)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command", _Command)
    return {"parallel_read_safe": True}
