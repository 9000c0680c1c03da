"""A folder of results: the files of one run, and of that run alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ._folders import exchange, held, hidden, locked, made, sync
from .errors import InputError, notice

__all__ = ["OutputFolder", "folder_made", "folder_whole", "held", "removed", "settle", "written_whole"]

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.EINTR)
_THERE = (errno.ENOTEMPTY, errno.EEXIST)  # a folder, where another is to have that name
_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, *_THERE)  # for a file
_WHOLE, _GONE = ".l2rfast-whole", ".l2rfast-gone"


class OutputFolder:
    """Writes the files of a run to a folder, all or none.

    A context manager: write each file to ``.path(name)``. They gather in a hidden folder on the same file
    system and move to the target, which is created if absent, at the end. What an earlier run left there under a name
    that this one has no file for goes; all other files there stay. After an exception, an interrupt included, the
    target is as it was. What a process that was killed left behind goes when the next one writes to the same place: it
    held a lock (flock) on its hidden folder, which ends with it; others' folders stay.

    Where the target is there, the hidden folder with all files is first called ``.l2rfast-whole`` in it: from then on
    the result is the new one. Its files move one by one, and whoever finds that a process was killed or lost power
    meanwhile moves the rest, see `settle`. Of two processes the second waits for the first, and says that it replaces
    what that wrote.

    Args:
        target: the folder.
        names: of all files that such a run may write.

    Raises:
        InputError: the target cannot be created or written, found out on entry where possible.
    """

    def __init__(self, target: str | os.PathLike[str], names: Collection[str]) -> None:
        self._target, self._names = Path(target), dict.fromkeys(names)  # of a template there may be thousands
        anchor = self._target
        while not os.path.lexists(anchor):
            anchor = anchor.parent
        self._anchor, self._work, self._held = anchor, anchor, ExitStack()
        self._before: Mapping[str, tuple[int, int]] = {}

    def path(self, name: str) -> Path:
        """Where to write the file that will be called ``name``, one of the names, in the target folder."""
        if name not in self._names:
            raise ValueError(f"{name} is not among the files that may be written: {', '.join(self._names)}")
        return self._work / name

    def __enter__(self) -> OutputFolder:
        try:
            self._work = self._held.enter_context(hidden(self._anchor, {self._target, self._target.parent}))
            _settle(self._target)
            self._before = self._there()
        except OSError as error:
            self._held.close()
            raise self._unwritable(error) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._move()
        except OSError as failure:
            raise self._unwritable(failure) from failure
        finally:
            self._held.close()
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise self._unwritable(error) from error
        if isinstance(error, InputError) and (told := _of_target(error, self._work, self._target)):
            raise told from error

    def _there(self) -> dict[str, tuple[int, int]]:
        """What tells the files of a run in the target from those of another."""
        try:
            with os.scandir(self._target) as files:
                here = [(file.name, file.stat(follow_symlinks=False)) for file in files if file.name in self._names]
        except FileNotFoundError:
            return {}
        return {name: (found.st_ino, found.st_mtime_ns) for name, found in here}

    def _move(self) -> None:
        files = list(self._work.iterdir())
        for file in files:
            if (self._target / file.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{file.name} is a folder there")
            _finished(file)
        if self._target.exists() or not self._made():
            self._replace([file.name for file in files])

    def _made(self) -> bool:
        """Make the target of the hidden folder. False where another process has made it meanwhile."""
        sync(self._work)
        made(self._target.parent)
        try:
            self._work.rename(self._target)
        except OSError as error:
            if error.errno in _THERE:
                return False
            raise
        sync(self._target.parent)
        return True

    def _replace(self, names: Collection[str]) -> None:
        _settle(self._target)
        before = self._there()
        if before != self._before:
            notice(f"--out {self._target}: another process has written a result there meanwhile, which this replaces")
        gone = [name for name in before if name not in names and not (self._target / name).is_dir()]  # someone else's
        if gone:
            (self._work / _GONE).write_bytes(b"\0".join(map(os.fsencode, gone)))
            sync(self._work / _GONE)
        sync(self._work)
        while True:
            try:
                self._work.rename(self._target / _WHOLE)
                break
            except OSError as error:
                if error.errno not in _THERE:
                    raise
                _settle(self._target)
        _put(self._target)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"--out {self._target}: expected a folder that can be written ({error.strerror})")


def settle(folder: str | os.PathLike[str]) -> None:
    """Finish what a process had begun to put in a folder of results, where it was killed or lost power meanwhile.

    Whoever reads several files of a folder calls this before: then they are of one run. A process that is at it is
    waited for.

    Raises:
        InputError: it cannot be finished, as where the folder is not to be written.
    """
    try:
        _settle(Path(folder))
    except OSError as error:
        raise InputError(
            f"{folder}: a run ended while it replaced the files there; expected to finish that ({error.strerror})"
        ) from error


def _settle(folder: Path) -> None:
    while os.path.lexists(folder / _WHOLE):
        if (lock := locked(folder / _WHOLE, wait=True)) is not None:
            try:
                _put(folder)
            finally:
                os.close(lock)


def _put(folder: Path) -> None:
    """Move the files of ``.l2rfast-whole``, which are all on the disk, and remove those that go. It may be done again.

    Raises:
        OSError: one cannot be moved; then it is still to be done.
    """
    whole = folder / _WHOLE
    sync(folder)  # before the first file goes
    with suppress(FileNotFoundError):
        for name in map(os.fsdecode, (whole / _GONE).read_bytes().split(b"\0")):
            if os.path.basename(name) == name:  # none of elsewhere, whoever made the folder
                (folder / name).unlink(missing_ok=True)
    for name in os.listdir(whole):
        if name != _GONE:
            with suppress(FileNotFoundError):  # where there are no locks, another may be at it too
                os.replace(whole / name, folder / name)
    sync(folder)  # before it is forgotten
    (whole / _GONE).unlink(missing_ok=True)
    with suppress(OSError):  # who comes next may have it already
        whole.rmdir()


def _finished(file: Path) -> None:
    """Bring a file to the disk, and give it the rights that new ones have: some libraries make files of their own
    user's alone."""
    rights = file.parent.stat().st_mode & 0o666
    if file.stat().st_mode & 0o777 != rights:
        file.chmod(rights)
    sync(file)


def _of_target(error: InputError, work: Path, target: object, *inside: str) -> InputError | None:
    """Of what is said of a file in a hidden folder, the same of the target; None of another."""
    said = told = str(error)
    for path in (*(work / name for name in inside), work):
        told = told.replace(str(path), str(target))
    return None if told == said else InputError(told)


@contextmanager
def written_whole(target: str | os.PathLike[str], *, links: bool = True) -> Iterator[Path]:
    """Where to write a file that takes the place of another, or of none, as a whole or not at all.

    It is in a hidden folder beside the target, as those of `OutputFolder` are: a killed process's goes with the next.

    Args:
        target: the file. What is given has the same name, by whose suffixes writers go. Of a symbolic link it is what
            that points to, and the link stays.
        links: whether that is so; else the file takes the place of the link, as of results in a folder.

    Raises:
        InputError: the folder is not there, or cannot be written, or the target is no file.
    """
    file = Path(target)
    if not file.name:
        raise InputError(f"{file}: expected a file that can be written, got a folder")
    try:
        place = Path(os.path.realpath(file)) if links and file.is_symlink() else file
        if links and place.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if (
            place.exists() and not place.is_file() and (links or not place.is_symlink())
        ):  # a device would be replaced by a file
            raise InputError(f"{file}: expected a file that can be written, got a folder or a device")
        with hidden(place.parent) as work:
            part = work / file.name
            yield part
            _finished(part)
            part.replace(place)
            sync(place.parent)
    except OSError as error:
        if error.errno in (*UNWRITABLE, *_NO_PLACE):
            raise InputError(f"{file}: expected a file that can be written ({error.strerror})") from error
        raise


@contextmanager
def folder_whole(target: str | os.PathLike[str], like: Collection[str] = ()) -> Iterator[Path]:
    """Where to write a folder that comes as a whole or not at all, as a file of `written_whole`.

    It and the one whose place it takes change names at once; where the file system has that not, as of networks, one
    after the other, and a process that is killed between the two leaves neither.

    Args:
        target: the folder; its parent is made if absent.
        like: of the one whose place it takes, if there is any, one of these files: no other is touched, but an empty
            one.

    Raises:
        InputError: it cannot be written, or what is there is another.
    """
    place = Path(os.path.realpath(target))

    def check() -> None:
        if place.exists() and not (
            place.is_dir() and (not any(place.iterdir()) or any((place / n).is_file() for n in like))
        ):
            raise InputError(f"{target}: expected a new folder, but it is there and holds something else")

    try:
        made(place.parent)
        with hidden(place.parent) as work:  # what a process left that was killed goes, whatever is there
            check()
            part = work / place.name
            part.mkdir()
            try:
                yield part
            except InputError as error:
                raise (_of_target(error, work, target, part.name) or error) from error
            for each in (*part.rglob("*"), part):
                sync(each)
            check()  # another may have been as quick
            if not place.exists():
                part.rename(place)
            elif not exchange(part, place):
                before = work / "before"
                place.rename(before)
                try:
                    part.rename(place)
                except OSError:
                    before.rename(place)
                    raise
            sync(place.parent)
    except OSError as error:
        if error.errno in (*UNWRITABLE, *_NO_PLACE):
            raise InputError(f"{target}: expected a folder that can be written ({error.strerror})") from error
        raise


def folder_made(folder: Path) -> None:
    """See that a folder is there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        made(folder)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written ({error.strerror})") from error


def removed(file: Path) -> None:
    """See that a file is not there.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{file}: expected a file that can be removed ({error.strerror})") from error
