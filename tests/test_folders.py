"""Folders that one process has, or that come as a whole, and what goes from them."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from l2rfast import InputError
from l2rfast.output import folder_whole, held, removed


def spoilt(file: Path) -> None:
    file.touch()
    raise KeyError


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_that_was_made_to_be_held_goes_again_where_nothing_comes_of_it(shared: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(KeyboardInterrupt), held(folder, shared=shared):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    for file in (folder / "file", folder.parent / "other"):
        with pytest.raises(KeyError), held(folder, shared=shared):
            spoilt(file)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["folder", "other"]
    with pytest.raises(KeyError), held(tmp_path / "other"), held(tmp_path / "other" / "inner", shared=shared):
        raise KeyError
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError), held(tmp_path / "there", shared=shared):
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "there"]


def test_a_folder_that_others_share_stays(tmp_path: Path) -> None:
    first, second = held(tmp_path / "folder", shared=True), held(tmp_path / "folder", shared=True)
    first.__enter__()
    with second:
        assert not first.__exit__(KeyError, KeyError(), None)
        assert (tmp_path / "folder").is_dir()


def test_a_folder_that_went_while_it_was_taken_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lock, tries = tmp_path / "folder", fcntl.flock, [2]

    def late(descriptor: int, how: int) -> None:
        if tries[0]:
            tries[0] -= 1
            folder.rmdir()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with held(folder):
        assert folder.is_dir()
        with pytest.raises(InputError, match="no other process works"), held(folder):
            pass


def test_of_two_who_write_a_folder_the_first_stays(tmp_path: Path) -> None:
    def late() -> None:
        with folder_whole(tmp_path / "out") as mine:
            (mine / "a.txt").write_text("late")
            with folder_whole(tmp_path / "out") as other:
                (other / "a.txt").write_text("first")

    with pytest.raises(InputError, match="expected a new folder"):
        late()
    assert (tmp_path / "out/a.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_goes_where_its_folder_was_finished(tmp_path: Path) -> None:
    """Nothing is written by the next, as the folder is there."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_text("whole")
    left = tmp_path / f".l2rfast-{'0' * 32}"
    left.mkdir()
    with pytest.raises(InputError, match="expected a new folder"), folder_whole(tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]
    assert not left.exists()


def test_what_cannot_be_removed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    for _ in range(2):
        removed(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=f"{tmp_path}: expected a file that can be removed"):
        removed(tmp_path)
