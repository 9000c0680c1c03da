"""What the page of reliability says: its counts are those of the last runs, and the tests that it names are there."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

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
    with recorded("sanitizers", "thread-calls", folder=tmp_path) as counts:
        counts |= {"calls": 10_000, "of a kind": {"calls": 5}}
    report = json.loads((tmp_path / "sanitizers-thread-calls.json").read_text())
    assert report["counts"] == {"calls": 10_000, "of a kind": {"calls": 5}}
    assert report["command"].startswith("python -m reliability.sanitizers")
    told = counted(*(report if part == "sanitizers-thread-calls" else {} for part in PARTS))
    assert "| calls: 10,000 | `python -m reliability.sanitizers" in told
    assert told.count("never run to its end") == len(PARTS) - 1


def test_what_is_shorter_than_a_full_run_leaves_the_counts_of_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorded("files", folder=tmp_path, full=False) as counts:
        counts["inputs"] = 7
    assert not [*tmp_path.iterdir()]
    assert capsys.readouterr().err == f"shorter than a full run: {tmp_path} stays as it is\n"


# By part: the words of its full runs, and those of shorter ones.
RUNS = {
    "operators.__main__": (["--cases 10000 --seed 3"], ["--cases 20"]),
    "files.__main__": (["--inputs 100000 --seed 3"], ["--inputs 50", "--least 1"]),
    "power.__main__": (["--seed 3"], ["--cases 2", "--only apply --only jacobian", "--faults KILL", "--pairs 0"]),
    "sanitizers.__main__": (
        ["address", "thread --only calls", "valgrind"],
        ["address --only calls --calls 5", "thread --only calls --calls 9"],
    ),
    "training": (["--kills 50 --seed 3"], ["--kills 3", "--ranks 0"]),
    "long_run": (["--registrations 2000"], ["--registrations 9", "--others 25"]),
}


class Begun(Exception):
    """Raised where counts begin: what comes then takes hours."""


@pytest.mark.parametrize(
    ("module", "words", "full"),
    [
        (module, words, full)
        for module, kinds in RUNS.items()
        for full, each in zip((True, False), kinds, strict=True)
        for words in each
    ],
)
def test_parts_keep_the_counts_of_full_runs_alone(
    module: str, words: str, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def recording(*_: Any, full: bool = True, **__: Any) -> None:
        kept.append(full)
        raise Begun

    part = importlib.import_module(f"reliability.{module}")
    monkeypatch.setattr(part, "recorded", recording)
    monkeypatch.setattr(part, "available", lambda: True, raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", [module, *words.split()])
    with pytest.raises(Begun):
        part.main()
    assert kept == [full]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("operators.__main__", "--cases 0"),
        ("files.__main__", "--inputs -2"),
        ("power.__main__", "--cases -2"),
        ("power.__main__", "--pairs -1"),
        ("sanitizers.__main__", "address --calls 0"),
        ("training", "--kills 0"),
        ("long_run", "--registrations 0"),
        ("long_run", "--others 0"),
    ],
)
def test_a_run_that_tries_nothing_is_refused(
    module: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = importlib.import_module(f"reliability.{module}")
    monkeypatch.setattr(part, "recorded", pytest.fail)  # of what is not refused
    monkeypatch.setattr(sys, "argv", [module, *words.split()])
    with pytest.raises(SystemExit, match="2"):
        part.main()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"python -m reliability.{module.removesuffix('.__main__')}: error: ")
    assert "expected" in said


def test_the_counts_of_files_are_kept_in_the_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = importlib.import_module("reliability.files.__main__")
    monkeypatch.setattr(part, "run", lambda plan, *_: {target: Counter({part.READ: 1}) for target in plan})
    monkeypatch.setattr(sys, "argv", ["files", "--inputs=1", f"--report={tmp_path}"])
    assert part.main() == 0
    assert [file.name for file in tmp_path.iterdir()] == ["files.json"]
