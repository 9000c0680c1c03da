"""What the page of reliability says: its counts are those of the last runs, and the tests that it names are there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from reliability.counts import PARTS, counted
from reliability.record import recorded

ROOT = Path(__file__).parent.parent


def test_every_test_that_is_named_is_there() -> None:
    text, file, named = (ROOT / "docs" / "reliability.md").read_text(), "", []
    for first, last in re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", text):
        file = first or file  # after a name with its file come others of that file
        named.append((file, last))
    assert len(named) > 30
    for file, name in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{file}::{name}"


def test_counts_are_kept_where_a_run_ends(tmp_path: Path) -> None:
    def interrupted() -> None:
        with recorded("files", folder=tmp_path) as counts:
            counts["inputs"] = 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [*tmp_path.iterdir()]
    with recorded("sanitizers", "thread", folder=tmp_path) as counts:
        counts |= {"calls": 10_000, "of a kind": {"calls": 5}}
    report = json.loads((tmp_path / "sanitizers-thread.json").read_text())
    assert report["counts"] == {"calls": 10_000, "of a kind": {"calls": 5}}
    assert report["command"].startswith("python -m reliability.sanitizers")
    told = counted(*(report if part == "sanitizers-thread" else {} for part in PARTS))
    assert "| calls: 10,000 | `python -m reliability.sanitizers" in told
    assert told.count("never run to its end") == len(PARTS) - 1
