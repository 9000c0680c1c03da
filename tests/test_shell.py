"""Command lines as notebooks and executed pages show them."""

from __future__ import annotations

import sys
from multiprocessing import spawn
from pathlib import Path
from types import ModuleType

import pytest

from l2rfast.cli.shell import shell


def test_what_is_typed_and_what_it_prints_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shell("""
        l2rfast --version
        l2rfast \\
            --version
    """)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "$ l2rfast --version"
    assert lines[1].startswith("l2rfast 0")
    assert lines[1] == lines[4]
    assert lines[2:4] == ["$ l2rfast \\", "    --version"]


def test_errors_are_shown_and_have_to_be_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").write_text("")
    shell("l2rfast describe there", tmp_path, code=2)
    assert "l2rfast: error: " in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="expected exit code 0, got 2"):
        shell("l2rfast describe there", tmp_path)
    with pytest.raises(RuntimeError, match="expected exit code 2, got 0"):
        shell("l2rfast --version", code=2)
    with pytest.raises(ValueError, match="got 'rm'"):
        shell("rm there", tmp_path)
    assert (tmp_path / "there").exists()


def test_processes_that_a_command_starts_do_not_run_the_page_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ModuleType("__main__")
    page.__file__ = str(tmp_path / "page.py")
    monkeypatch.setitem(sys.modules, "__main__", page)
    assert "init_main_from_path" in spawn.get_preparation_data("worker")
    told: list[dict[str, object]] = []
    monkeypatch.setattr("l2rfast.cli.shell.main", lambda words: told.append(spawn.get_preparation_data("worker")))
    shell("l2rfast --version")
    assert not {"init_main_from_path", "init_main_from_name"} & told[0].keys()
    assert sys.modules["__main__"] is page
