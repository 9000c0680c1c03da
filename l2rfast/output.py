"""A folder of results: the files of one run, and of that run alone."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Collection
from pathlib import Path

from .errors import InputError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


class OutputFolder:
    """Writes the files of a run to a folder, all or none.

    A context manager: write each file to ``.path(name)``. They gather in a hidden folder on the same file
    system and move to the target, which is created if absent, at the end. What an earlier run left there under a name
    that this one has no file for goes; all other files there stay. After an exception, an interrupt included, the
    target is as it was.

    Args:
        target: the folder.
        names: of all files that such a run may write.

    Raises:
        InputError: the target cannot be created or written, found out on entry where possible.
    """

    def __init__(self, target: str | os.PathLike[str], names: Collection[str]) -> None:
        self._target, self._names = Path(target), names
        anchor = self._target
        while not os.path.lexists(anchor):
            anchor = anchor.parent
        self._work = anchor / f".l2rfast-{uuid.uuid4().hex}"

    def path(self, name: str) -> Path:
        """Where to write the file that will be called ``name``, one of the names, in the target folder."""
        if name not in self._names:
            raise ValueError(f"{name} is not among the files that may be written: {', '.join(self._names)}")
        return self._work / name

    def __enter__(self) -> OutputFolder:
        try:
            self._work.mkdir()
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
            shutil.rmtree(self._work, ignore_errors=True)
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
