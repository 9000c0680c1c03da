"""The pages of the API and of the commands have every public name and every command, once, and no other."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import l2rfast

DOCS = Path(__file__).parent.parent / "docs"
NAMED = re.compile(r"^\.\. (?:auto\w+|py:data):: (\S+)$", re.MULTILINE)
COMMAND = re.compile(r"^```\{command\} (.+)$", re.MULTILINE)
LISTED = ("io", "losses", "world", "compat", "methods.unsupervised", "methods.weakly_supervised")  # in __all__
OTHERS = (
    "metrics",
    "nn",
    "data",
    "data.synthetic",
    "data.painted",
    "data.abdomens",
    "methods.discrete.pddnet",
    "methods.discrete.tutorial",
)
# What the others give and take.
MORE = {"l2rfast.methods.result.Registration", "l2rfast._info.Info"}


@pytest.fixture(autouse=True)
def pages_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules beside the pages, which Sphinx finds."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(DOCS))
    yield
    for name in {"commands", "docstrings"} - before:
        sys.modules.pop(name, None)


def names() -> dict[str, Any]:
    """Every public name, and what it is."""
    found = {f"l2rfast.{name}": getattr(l2rfast, name) for name in l2rfast.__all__}
    for path in (*LISTED, *OTHERS):
        module = importlib.import_module(f"l2rfast.{path}")
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in public(module)}
    return found


def public(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in own if not name.startswith("_")]


def on_pages() -> list[str]:
    return [name for page in sorted((DOCS / "api").glob("*.md")) for name in NAMED.findall(page.read_text())]


def resolved(name: str) -> Any:
    """What a name is: a function before the module that is called alike."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None)
    return importlib.import_module(name) if found is None else found


def test_every_public_name_is_on_a_page_once() -> None:
    shown = [id(resolved(name)) for name in on_pages()]  # some have two names
    off = {name: shown.count(id(value)) for name, value in names().items() if shown.count(id(value)) != 1}
    assert not off, f"not once on the pages of docs/api: {off}"


def test_no_page_has_another_name() -> None:
    known = {id(value) for value in names().values()} | {id(resolved(name)) for name in MORE}
    others = [n for n in on_pages() if not isinstance(resolved(n), ModuleType) and id(resolved(n)) not in known]
    assert not others


def test_every_command_is_on_a_page_once() -> None:
    pytest.importorskip("sphinx")
    from commands import commands

    pages = sorted((DOCS / "cli").glob("*.md"))
    assert sorted(COMMAND.findall("\n".join(page.read_text() for page in pages))) == sorted(commands())


def test_every_option_of_a_command_is_explained() -> None:
    pytest.importorskip("sphinx")
    from commands import commands

    silent = [f"{words} {each.name}" for words, of in commands().items() for each in of.params if not each.help]
    assert not silent


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a field (1, ndim, *size), in voxels", "a field ``(1, ndim, *size)``, in voxels"),
        ("(N, C, *spatial) of ``x * y``", "``(N, C, *spatial)`` of ``x * y``"),
        ("the sum of |x|, 2 * 3", r"the sum of \|x\|, 2 \* 3"),
        ("Dalca et al. (MICCAI 2018), in words", "Dalca et al. (MICCAI 2018), in words"),
    ],
)
def test_docstrings_become_text(written: str, read: str) -> None:
    pytest.importorskip("sphinx")
    from docstrings import as_text

    assert as_text(written) == read


def test_a_colon_makes_no_type() -> None:
    pytest.importorskip("sphinx")
    from docstrings import whole

    assert whole("Text.\n\n:returns: of both.\n:rtype: The warp\n") == "Text.\n\n:returns: The warp: of both.\n"
    assert whole("of both.\n\n:type: The warp") == "The warp: of both."
