"""Who works in a folder: locks that end with their process, and what a process that was killed left behind."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

_WORK = ".l2rfast-"  # and 32 hexadecimal digits
_LEFT = re.compile(re.escape(_WORK) + "[0-9a-f]{32}")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def hidden(folder: Path, others: Collection[Path] = ()) -> Iterator[Path]:
    """A hidden folder in another, whose lock is held until it goes; here and in others, what the dead left goes.

    Raises:
        OSError: it cannot be made.
    """
    work = folder / f"{_WORK}{uuid.uuid4().hex}"
    work.mkdir()
    while (lock := locked(work, wait=True)) is None:  # taken for one that was left behind, and removed
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
    made(folder)
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


def locked(folder: Path, *, wait: bool) -> int | None:
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
                if (lock := locked(folder / name, wait=False)) is not None:
                    shutil.rmtree(folder / name, ignore_errors=True)
                    os.close(lock)


def made(folder: Path) -> None:
    """Make a folder, and those above it, unless they are there: on the disk, or, after an error, none of them.

    Raises:
        OSError: it cannot be made.
    """
    absent = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in absent:
            sync(each.parent)
    except OSError:
        with suppress(OSError):
            for each in absent:
                each.rmdir()
        raise


def sync(path: Path) -> None:
    """Bring what a file holds, or the names in a folder, to the disk, where a loss of power does not take them.

    Raises:
        OSError: it cannot be done.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that have it not for folders
            raise
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Give each of two folders the other's name, at once. False where the system or the file system cannot.

    Raises:
        OSError: it fails otherwise.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if library.renameat2(*names, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))
