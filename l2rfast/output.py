"""A folder of results: the files of one run, and of that run alone."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import InputError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)  # for a file
_WORK = ".l2rfast-"  # and 32 hexadecimal digits
_LEFT = re.compile(re.escape(_WORK) + "[0-9a-f]{32}")


class OutputFolder:
    """Writes the files of a run to a folder, all or none.

    A context manager: write each file to ``.path(name)``. They gather in a hidden folder on the same file
    system and move to the target, which is created if absent, at the end. What an earlier run left there under a name
    that this one has no file for goes; all other files there stay. After an exception, an interrupt included, the
    target is as it was. What a process that was killed left behind goes when the next one writes to the same place: it
    held a lock (flock) on its hidden folder, which ends with it; others' folders stay.

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

    def path(self, name: str) -> Path:
        """Where to write the file that will be called ``name``, one of the names, in the target folder."""
        if name not in self._names:
            raise ValueError(f"{name} is not among the files that may be written: {', '.join(self._names)}")
        return self._work / name

    def __enter__(self) -> OutputFolder:
        try:
            self._work = self._held.enter_context(_hidden(self._anchor, {self._target, self._target.parent}))
        except OSError as error:
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
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise self._unwritable(error) from error

    def _move(self) -> None:
        files = list(self._work.iterdir())
        for file in files:
            if (self._target / file.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{file.name} is a folder there")
            with file.open("rb+") as stream:
                os.fsync(stream)
        if self._target.exists():
            for name in set(self._names).difference(file.name for file in files):
                if not (self._target / name).is_dir():  # someone else's
                    (self._target / name).unlink(missing_ok=True)
            for file in files:
                file.replace(self._target / file.name)
        else:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._work.rename(self._target)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"--out {self._target}: expected a folder that can be written ({error.strerror})")


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
        with _hidden(place.parent) as work:
            part = work / file.name
            yield part
            with part.open("rb+") as stream:
                os.fsync(stream)
            part.replace(place)
    except OSError as error:
        if error.errno in (*_UNWRITABLE, *_NO_PLACE):
            raise InputError(f"{file}: expected a file that can be written ({error.strerror})") from error
        raise


@contextmanager
def folder_whole(target: str | os.PathLike[str], like: Collection[str] = ()) -> Iterator[Path]:
    """Where to write a folder that comes as a whole or not at all, as a file of `written_whole`.

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

    check()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _hidden(place.parent) as work:
            part = work / place.name
            part.mkdir()
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    with file.open("rb+") as stream:
                        os.fsync(stream)
            check()  # another may have been as quick
            if place.exists():
                place.rename(work / "before")
            part.rename(place)
    except OSError as error:
        if error.errno in (*_UNWRITABLE, *_NO_PLACE):
            raise InputError(f"{target}: expected a folder that can be written ({error.strerror})") from error
        raise


@contextmanager
def _hidden(folder: Path, others: Collection[Path] = ()) -> Iterator[Path]:
    """A hidden folder in another, whose lock is held until it goes; here and in others, what the dead left goes.

    Raises:
        OSError: it cannot be made.
    """
    work = folder / f"{_WORK}{uuid.uuid4().hex}"
    work.mkdir()
    while (lock := _locked(work, wait=True)) is None:  # taken for one that was left behind, and removed
        work.mkdir()
    try:
        for each in {folder, *others}:
            _sweep(each)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


@contextmanager
def held(folder: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Inside, this process alone has a folder, which is made if absent: others that ask for it have to wait, or fail.

    After an exception, an interrupt included, a folder that was made and is empty goes again, and so do those above.

    Args:
        shared: with others that say so too.
        wait: until it is free.

    Raises:
        InputError: the folder cannot be made, or another process has it.
    """
    absent = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        while (descriptor := _taken(folder, how)) is None:  # another one that made it has removed it
            pass
    except BlockingIOError:
        raise InputError(f"{folder}: expected a folder in which no other process works, but one does") from None
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written ({error.strerror})") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty, or others share it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for each in absent:
                each.rmdir()
        raise
    finally:
        os.close(descriptor)


def _taken(folder: Path, how: int) -> int | None:
    """A descriptor that holds the lock of a folder, which is made if absent; None where it has gone meanwhile. Where a
    file system has no locks, it holds nothing.

    Raises:
        OSError: the folder cannot be made.
        BlockingIOError: another holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    os.close(descriptor)
    return None


def _locked(folder: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock of a folder; None where there is none, as it has gone or another holds it.

    Where a file system has no locks, it holds nothing, and with ``wait`` is returned all the same.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if wait:
            return descriptor
        os.close(descriptor)
        return None
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    os.close(descriptor)
    return None


def _sweep(folder: Path) -> None:
    """Remove what processes that are dead left behind in a folder."""
    with suppress(OSError):
        for name in filter(_LEFT.fullmatch, os.listdir(folder)):  # which may have thousands of pairs
            with suppress(OSError):  # not ours
                if (lock := _locked(folder / name, wait=False)) is not None:
                    shutil.rmtree(folder / name, ignore_errors=True)
                    os.close(lock)
