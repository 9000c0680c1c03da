"""The code blocks of the docs' pages, as Markdown has them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN = ("python", "sh")
SHOWN = ("console", "text", "cpp", "cuda", "csv", "json", "toml", "yaml", "make", "bibtex", "html")
# Directives with Markdown in them, which may have blocks of code; what is in others is not for this test.
BOXES = ("note", "tip", "important", "warning", "caution", "hint", "admonition", "dropdown", "figure", "seealso")
FENCE = re.compile(r" *(`{3,})(.*)")
REASON = re.compile(r"(?:% |<!-- )not run: (.*?)(?: -->)?")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        line: of the page, from 1, of the first line of the text.
        language: what the fence says; empty where it says nothing.
        text: dedented as the fence is.
        reason: why it is not run, in a comment above it that readers do not see; None where there is no such comment.
    """

    line: int
    language: str
    text: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    """All blocks of code of a page, in order."""
    return [*_blocks(text.splitlines(), 1)]


def _blocks(lines: Sequence[str], first: int) -> Iterator[Block]:
    """Of lines of which the first has that number."""
    i = 0
    while i < len(lines):
        opened = FENCE.fullmatch(lines[i])
        if opened is None:
            i += 1
            continue
        fence, info, indent = opened[1], opened[2].strip(), lines[i].index("`")
        closed = (k for k in range(i + 1, len(lines)) if re.fullmatch(rf" *{fence}`* *", lines[k]))
        end = next(closed, len(lines))
        within = [line[indent:] if line[:indent].isspace() else line for line in lines[i + 1 : end]]
        directive = re.match(r"\{([\w:-]+)\}", info)
        if directive is None:
            text = "".join(f"{line}\n" for line in within)
            yield Block(first + i + 1, info.partition(" ")[0], text, _reason(lines[:i]))
        elif directive[1] in BOXES:
            yield from _blocks(within, first + i + 1)
        i = end + 1


def _reason(above: Sequence[str]) -> str | None:
    last = next((line.strip() for line in reversed(above) if line.strip()), "")
    told = REASON.fullmatch(last)
    return told[1] if told else None


def commands(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Of each command of a shell block its line, from 0, its text and its words. Comments are no words."""
    begun, number = "", 0
    for i, line in enumerate(text.splitlines()):
        number = number if begun else i
        begun += line.removesuffix("\\")
        if not line.endswith("\\"):
            words = shlex.split(begun, comments=True)
            if words:
                yield number, begun, words
            begun = ""
