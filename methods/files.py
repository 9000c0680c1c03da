"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name beside it and give it its name when it is on the disk.

    Args:
        file: in a folder that exists.
        write: writes to the path that it is called with.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        new.unlink(missing_ok=True)  # of a dead process, or a link
        new.touch(exist_ok=False)
        mode = new.stat().st_mode  # some writers make files that are their own alone
        write(new)
        new.chmod(mode)
        with new.open("rb+") as stream:
            os.fsync(stream)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """What processes that were killed in `write_whole` left behind."""
    for file in folder.glob(".*.*.[0-9]*"):
        file.unlink(missing_ok=True)
