"""The folder of results: all or nothing, and of one run alone."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pytest

from l2rfast import InputError, output
from l2rfast.errors import InputWarning
from l2rfast.output import OutputFolder, folder_whole, settle, written_whole

NAMES = ("a.txt", "b.txt", "sometimes.txt")


def write_two(folder: OutputFolder) -> None:
    folder.path("a.txt").write_text("new")
    folder.path("b.txt").write_text("new")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_output_folder_creates_or_updates_the_target(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with OutputFolder(target, NAMES) as folder:
        write_two(folder)
        assert not target.exists()
    assert contents(target) == {"a.txt": "new", "b.txt": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    (target / "a.txt").write_text("old")
    (target / "c.txt").write_text("old")
    with OutputFolder(target, NAMES) as folder:
        write_two(folder)
        assert (target / "a.txt").read_text() == "old"
    assert contents(target) == {"a.txt": "new", "b.txt": "new", "c.txt": "old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InputError])
@pytest.mark.parametrize("exists", [False, True])
def test_output_folder_leaves_no_trace_of_a_failure(tmp_path: Path, error: type[BaseException], exists: bool) -> None:
    target = tmp_path / "out"
    if exists:
        target.mkdir()
        for name in ("a.txt", "sometimes.txt"):
            (target / name).write_text("old")

    def fail() -> None:
        with OutputFolder(target, NAMES) as folder:
            write_two(folder)
            raise error

    with pytest.raises(error):
        fail()
    assert target.exists() == exists
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if exists else [])
    assert not exists or contents(target) == {"a.txt": "old", "sometimes.txt": "old"}


def test_output_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for target in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "dangling", Path("/proc/out")):
        with pytest.raises(InputError, match=rf"^--out {target}: expected a folder that can be written"):
            OutputFolder(target, NAMES).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


class Ended(BaseException):
    """As where a process is killed: nothing is cleaned up."""


def ended(target: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Write to a folder, and end at that rename or removal of the move; whether it was ended."""
    left = [at]

    def last(call: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Ended
            return call(*arguments, **options)

        return counted

    with monkeypatch.context() as patch, suppress(Ended), OutputFolder(target, NAMES) as folder:
        write_two(folder)
        for name in ("replace", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, last(getattr(os, name)))
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
    return left[0] <= 0


def test_output_folder_is_old_or_new_wherever_its_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, old = tmp_path / "out", {"a.txt": "old", "b.txt": "old", "sometimes.txt": "old", "notes.txt": "old"}
    new, at, found = {"a.txt": "new", "b.txt": "new", "notes.txt": "old"}, 0, []
    was_ended = True
    while was_ended:
        at += 1
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, text in old.items():
            (target / name).write_text(text)
        was_ended = ended(target, at, monkeypatch)
        settle(target)
        found.append({name: text for name, text in files(target).items() if not name.startswith(".")})
        assert found[-1] in (old, new)
        with OutputFolder(target, NAMES) as folder:
            write_two(folder)
        assert contents(target) == new
    assert found[0] == old
    assert found == sorted(found, key=lambda each: each == new)
    assert found[-1] == new
    assert at > 5


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_what_was_begun_in_a_folder_that_is_not_to_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / ".l2rfast-whole"
    whole.symlink_to(tmp_path)
    with pytest.raises(InputError, match="a run ended while it replaced the files there; expected to finish that"):
        settle(tmp_path)
    whole.unlink()
    whole.mkdir()
    (whole / ".l2rfast-gone").write_bytes(b"../out.txt\0a.txt")
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").touch()
    (tmp_path.parent / "out.txt").touch()
    settle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]
    assert (tmp_path.parent / "out.txt").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_of_two_results_for_one_folder_the_last_stays_whole_and_says_so(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "out"
    if exists:
        target.mkdir()

    def write_both() -> None:
        with OutputFolder(target, NAMES) as last:
            write_two(last)
            with OutputFolder(target, NAMES) as first:
                for name in NAMES:
                    first.path(name).write_text("first")
            assert files(target) == dict.fromkeys(NAMES, "first")

    with pytest.warns(InputWarning, match=f"--out {target}: another process has written a result there meanwhile"):
        write_both()
    assert contents(target) == {"a.txt": "new", "b.txt": "new"}


def test_a_folder_takes_the_place_of_another_at_once_or_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file system cannot exchange names."""
    for text, can in (("first", True), ("second", True), ("third", False)):
        if not can:
            monkeypatch.setattr(output, "exchange", lambda *_: False)
        with folder_whole(tmp_path / "out", ("a.txt",)) as part:
            (part / "a.txt").write_text(text)
        assert contents(tmp_path / "out") == {"a.txt": text}
    rename = Path.rename

    def fail(path: Path, to: Path) -> Path:
        if to == tmp_path / "out" and path.name == "out":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError, match=r"out: expected a folder that can be written \(Input"):  # noqa: SIM117
        with folder_whole(tmp_path / "out", ("a.txt",)) as part:
            (part / "a.txt").write_text("fourth")
    assert contents(tmp_path / "out") == {"a.txt": "third"}


def test_what_is_said_of_a_file_in_a_hidden_folder_names_the_target(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        raise InputError(f"{part}/a.zarr: expected a folder that can be written (No space left on device)")

    with pytest.raises(InputError, match=f"^{tmp_path}/out/a.zarr: expected"), folder_whole(tmp_path / "out") as part:
        fail(part)
    with (
        pytest.raises(InputError, match=f"^{tmp_path}/out/a.zarr: expected"),
        OutputFolder(tmp_path / "out", NAMES) as o,
    ):
        fail(o.path("a.txt").parent)


def test_output_folder_names_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "out"
    with pytest.raises(InputError, match=r"--out .*No space left"), OutputFolder(target, NAMES):
        full()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"--out .*No space left"), OutputFolder(target, NAMES) as folder:
        write_two(folder)
    assert not list(tmp_path.iterdir())


def test_output_folder_replaces_no_folder_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(InputError, match=r"b\.txt is a folder there"), OutputFolder(tmp_path, NAMES) as folder:
        write_two(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_output_folder_leaves_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    for name in ("a.txt", "sometimes.txt", "notes.txt"):
        (tmp_path / name).write_text("old")
    with OutputFolder(tmp_path, NAMES) as folder:
        write_two(folder)
    assert contents(tmp_path) == {"a.txt": "new", "b.txt": "new", "notes.txt": "old"}


def test_output_folder_knows_its_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"c\.txt is not among"), OutputFolder(tmp_path / "out", NAMES) as folder:
        folder.path("c.txt")
    assert not list(tmp_path.iterdir())


# Without the operators, which take seconds to import.
WRITER = f"""
import sys, types
sys.modules["l2rfast"] = package = types.ModuleType("l2rfast")
package.__path__ = [{str(Path(output.__file__).parent)!r}]
from l2rfast.output import OutputFolder
with OutputFolder(sys.argv[1], ("a.txt",)) as folder:
    folder.path("a.txt").write_text(sys.argv[2])
    print("written", flush=True)
    sys.stdin.read()
"""


def writer(target: Path, text: str) -> subprocess.Popen[str]:
    """A process that has written to the hidden folder of a target, and waits."""
    pipes: dict[str, int] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", WRITER, str(target), text], text=True, **pipes)


@pytest.mark.parametrize("exists", [False, True])
def test_what_a_killed_process_left_goes_with_the_next_and_that_of_a_live_one_stays(
    tmp_path: Path, exists: bool
) -> None:
    target, mine = tmp_path / "out", tmp_path / ".l2rfast-notes"
    (target if exists else mine).mkdir()
    place = target if exists else tmp_path
    killed, alive = writer(target, "killed"), writer(target, "alive")
    for process in (killed, alive):
        stdout: IO[str] | None = process.stdout
        assert stdout is not None
        assert stdout.readline() == "written\n"
    left = {path for path in place.iterdir() if path != mine}
    assert len(left) == 2
    killed.kill()
    killed.communicate()
    with OutputFolder(target, ("b.txt",)) as folder:
        folder.path("b.txt").write_text("new")
        mended = {path for path in left if path.exists()}
        assert [(path / "a.txt").read_text() for path in mended] == ["alive"]
    alive.communicate("")
    assert alive.returncode == 0
    assert contents(target) == {"a.txt": "alive", "b.txt": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == (["out"] if exists else [mine.name, "out"])


def test_a_folder_that_another_process_takes_for_left_behind_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making it and locking it."""
    lock, made = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not made:
            made.extend(tmp_path.iterdir())
            made[0].rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with OutputFolder(tmp_path / "out", NAMES) as folder:
        write_two(folder)
    assert contents(tmp_path / "out") == {"a.txt": "new", "b.txt": "new"}
    assert len(made) == 1


def test_where_a_file_system_has_no_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    other = tmp_path / f".l2rfast-{'0' * 32}"
    other.mkdir()
    with OutputFolder(tmp_path / "out", NAMES) as folder:
        write_two(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    longest = tmp_path / ("n" * 251 + ".txt")
    with written_whole(longest) as part:
        assert part.name == longest.name
        part.write_text("new")
        assert not longest.exists()
    assert contents(tmp_path) == {longest.name: "new"}

    def fail() -> None:
        with written_whole(longest) as part:
            part.write_text("newer")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert contents(tmp_path) == {longest.name: "new"}


@pytest.mark.parametrize("name", ["", ".", "/", "no/a.txt", "n" * 252 + ".txt", "folder", "/proc/a.txt", "file/a.txt"])
def test_a_file_that_has_no_place_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a file that can be written"), written_whole(name) as part:
        part.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("exists", [True, False])
def test_what_a_link_points_to_is_written_and_the_link_stays(exists: bool, tmp_path: Path) -> None:
    """As `cp` does; and, where it points to nothing yet, as the shell's ``>`` does."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    if exists:
        (there / "file.txt").write_text("old")
    (here / "link.nii").symlink_to("../there/second")
    (there / "second").symlink_to(there / "file.txt")

    def fail() -> None:
        with written_whole(here / "link.nii") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (there / "file.txt").exists() == exists
    with written_whole(here / "link.nii") as part:
        assert part.name == "link.nii"
        part.write_text("new")
        assert not exists or (there / "file.txt").read_text() == "old"
    assert (here / "link.nii").is_symlink()
    assert (there / "second").is_symlink()
    assert contents(here) == {"link.nii": "new"}
    assert contents(there) == {"file.txt": "new", "second": "new"}


def test_links_to_no_file_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "folder").symlink_to(".")
    (tmp_path / "nowhere").symlink_to("no/file")
    for name in ("loop", "device", "folder", "nowhere"):
        with (
            pytest.raises(InputError, match=f"{name}: expected a file that can"),
            written_whole(tmp_path / name) as part,
        ):
            part.write_text("new")
        assert (tmp_path / name).is_symlink()
    assert Path("/dev/null").is_char_device()


def test_what_a_killed_process_left_of_a_file_goes_with_the_next(tmp_path: Path) -> None:
    """Of a folder of results, or of one file: they are in the same hidden folders."""
    killed, alive = writer(tmp_path, "killed"), writer(tmp_path, "alive")
    for process in (killed, alive):
        stdout: IO[str] | None = process.stdout
        assert stdout is not None
        assert stdout.readline() == "written\n"
    killed.kill()
    killed.communicate()
    with written_whole(tmp_path / "b.txt") as part:
        part.write_text("new")
        left = {path.read_text() for path in tmp_path.glob(".l2rfast-*/a.txt")}
        assert left == {"alive"}
    alive.communicate("")
    assert contents(tmp_path) == {"a.txt": "alive", "b.txt": "new"}
