"""The examples of the site that readers download as notebooks; the build of the site runs them, see `test_site`."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).parent.parent / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("*/*.py"))
# What comes with the package, as far as an example may name it.
THERE = {"l2rfast", "torch", "numpy", "nibabel", "matplotlib"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_needs_the_package_alone(script: Path) -> None:
    nodes = [*ast.walk(ast.parse(script.read_text()))]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} <= THERE | set(sys.stdlib_module_names)
    assert not any(isinstance(node, ast.Name) and node.id == "__file__" for node in nodes)


@pytest.mark.parametrize("script", sorted(GALLERY.glob("hands_on/*.py")), ids=lambda path: path.stem)
def test_every_exercise_has_its_solution(script: Path) -> None:
    lesson, exercises, solutions = re.split(r"^# (?:Exercises|Solutions)\n# -+\n", script.read_text(), flags=re.M)
    numbers = re.findall(r"^# (\d)\. \*", exercises, re.M)
    assert numbers == [str(n + 1) for n in range(len(numbers))]
    assert re.findall(r"^# \*\*(\d)\.\*\*", solutions, re.M) == numbers
    assert min(part.count("\nassert ") for part in (lesson, solutions)) >= len(numbers) - 1  # the last one is open
