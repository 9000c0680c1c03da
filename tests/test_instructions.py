"""No kernel takes more instructions than the committed record has; what is said where one does, or none is compared."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench import instructions
from bench.instructions import Counted, Record

AVX2 = pytest.mark.skipif(not instructions.library("avx2").exists(), reason="no kernels for AVX2 are built here")
SOFTWARE = {"compiler": "GCC 12", "torch": "2.13.0"}


def test_no_kernel_takes_more_instructions_than_the_record_has() -> None:
    """With the library that most processors load: half a minute of the minute is Python under valgrind."""
    reason = instructions.hindrance(Record.read(instructions.RECORD))
    if reason:
        pytest.skip(f"instructions were not compared: {reason}")
    assert instructions.check(["avx2"]) == []


def test_a_rise_of_more_than_three_percent_is_said() -> None:
    before = {name: Counted("voxel", 1000, 50_000) for name in ("kept", "less", "more")}
    now = {
        "kept": Counted("voxel", 1000, 51_500),
        "less": Counted("voxel", 1000, 10_000),
        "more": Counted("voxel", 1000, 51_600),
    }
    assert instructions.rises(before, now) == ["more: 3.2% more instructions, 51.6 a voxel where the record has 50.0"]


@pytest.mark.parametrize("before", [{}, {"a": Counted("voxel", 999, 50)}, {"a": Counted("cost", 1000, 50)}])
def test_what_the_record_does_not_have_is_said(before: dict[str, Counted]) -> None:
    assert instructions.rises(before, {"a": Counted("voxel", 1000, 50)}) == ["a: the record has none of these inputs"]


def test_a_kernel_that_rose_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"avx2": 100, "default": 200}
    monkeypatch.setattr(instructions, "RECORD", tmp_path / "instructions.json")
    monkeypatch.setattr(instructions, "ROOT", tmp_path)
    monkeypatch.setattr(instructions, "software", lambda: SOFTWARE)
    monkeypatch.setattr(instructions, "hindrance", lambda record: None)
    monkeypatch.setattr(instructions, "counted", lambda name: {"warp": Counted("voxel", 10, counts[name])})
    assert instructions.main([]) == 0
    assert "| warp | voxel | 10.0 | 20.0 |" in (tmp_path / "instructions.md").read_text()
    assert Record.read(instructions.RECORD) == Record(
        SOFTWARE, {name: {"warp": Counted("voxel", 10, n)} for name, n in counts.items()}
    )
    assert instructions.main(["--check"]) == 0
    counts["default"] = 250
    capsys.readouterr()
    assert instructions.main(["--check"]) == 1
    assert "default, warp: 25.0% more instructions, 25.0 a voxel where the record has 20.0" in capsys.readouterr().out


@AVX2
def test_another_compiler_is_said_and_nothing_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record.read(instructions.RECORD)
    monkeypatch.setattr(instructions, "software", lambda: record.software | {"compiler": "GCC: (other) 14.1.0"})
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(instructions, "check", lambda sets: pytest.fail("compared"))
    assert instructions.main(["--check"]) == 0
    said = (
        f"Instructions were not compared: compiler 'GCC: (other) 14.1.0', the record's {record.software['compiler']!r}."
    )
    assert capsys.readouterr().out == f"{said}\n"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert instructions.hindrance(record) == "there is no valgrind"
    assert instructions.other_software(SOFTWARE, SOFTWARE) is None


def test_the_record_is_of_the_kernels_that_are_counted() -> None:
    made = instructions.kernels()
    record = Record.read(instructions.RECORD)
    assert list(record.counted) == list(instructions.SETS)
    for counted in record.counted.values():
        assert {name: (one.per, one.of) for name, one in counted.items()} == {
            name: (kernel.per, kernel.of) for name, kernel in made.items()
        }
    text = instructions.RECORD.with_suffix(".md").read_text()
    assert text == record.markdown()


def test_a_file_of_callgrinds() -> None:
    text = (
        "version: 1\ndesc: Trigger: Client Request: warp, backward\npart: 2\nevents: Ir\nsummary: 1234\n\ntotals: 9\n"
    )
    assert instructions.total(text) == ("warp, backward", 1234)


@AVX2
def test_the_compiler_is_read_from_the_libraries() -> None:
    told = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    assert f"GCC: {told.removeprefix('g++ ')}" in instructions.compiler()
