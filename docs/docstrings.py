"""Docstrings as they are written, for Sphinx: shapes like (N, C, *spatial) are code, and no star or bar is markup.

In ours nothing is emphasised; code alone is marked.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
# In brackets, with commas between: of letters, numbers, ndim, or with the axes of something.
SHAPE = re.compile(r"\((?:(?:[^()`\n]*, ?)?\*[a-z][^()`\n]*|(?:[A-Z]|\d|ndim)(?:, ?[\w*+. -]{1,16})+)\)")
MARKUP = re.compile(r"([*|])")


def as_text(docstring: str) -> str:
    """As reStructuredText."""
    parts = CODE.split(docstring)
    for number in range(0, len(parts), 2):  # between code
        found = CODE.split(SHAPE.sub(r"``\g<0>``", parts[number]))
        found[::2] = [MARKUP.sub(r"\\\1", text) for text in found[::2]]
        parts[number] = "".join(found)
    return "".join(parts)


def whole(text: str) -> str:
    """What Napoleon made of a docstring, where it took what stands before a colon for a type."""
    text = re.sub(
        r":returns: (.*?)\n+:rtype: (.*?)(?=\n+:|\n\n|\n*\Z)",
        lambda at: f":returns: {at[2]}: {at[1]}",
        text,
        flags=re.DOTALL,
    )
    return re.sub(r"\A(.*?)\n+:type: (.*?)\s*\Z", lambda at: f"{at[2]}: {at[1]}", text, flags=re.DOTALL)


def _process(app: Sphinx, kind: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_text("\n".join(lines)).split("\n")


def _joined(app: Sphinx, kind: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    lines[:] = whole("\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process, priority=400)  # before Napoleon
    app.connect("autodoc-process-docstring", _joined, priority=600)  # after it
    return {"parallel_read_safe": True}
