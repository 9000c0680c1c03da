"""Command lines from Python, shown as in a terminal: for notebooks and for pages that are executed."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from textwrap import dedent
from types import ModuleType

from . import main


def shell(text: str, folder: str | os.PathLike[str] = ".", *, code: int = 0) -> None:
    """Run lines that begin with ``l2rfast`` in this process, which imports nothing anew, and print what they print.

    Args:
        text: the lines; one that ends with a backslash goes on in the next.
        folder: in which they run.
        code: the exit code with which each has to end.

    Raises:
        RuntimeError: another exit code, once the output is printed.
        ValueError: another command.
    """
    for line in re.split(r"(?<!\\)\n", dedent(text).strip()):
        name, *words = shlex.split(line.replace("\\\n", " "))
        if name != "l2rfast":
            raise ValueError(f"text: expected lines that begin with l2rfast, got {name!r}")
        said, found = io.StringIO(), None
        with chdir(folder), redirect_stdout(said), redirect_stderr(said), _no_main():
            try:
                main(words)
            except SystemExit as end:
                found = end.code
        print(f"$ {line}\n{said.getvalue()}".rstrip())
        if (found or 0) != code:
            raise RuntimeError(f"{line}: expected exit code {code}, got {found or 0}")


@contextmanager
def _no_main() -> Iterator[None]:
    """Processes that start afresh import the main module of this one, which would run the page again."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before
