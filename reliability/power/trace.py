"""What power loss can take of what calls wrote: files and names that are not on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .shim import Call

_HIDDEN = ".l2rfast-"


def lost(calls: Iterable[Call], folder: Path) -> Iterator[str]:
    """What a loss of power may lose though something that comes after it stays.

    A file is on the disk after its fsync, its name after that of its folder. So what is in a file or a folder has to be
    on the disk when that leaves a hidden folder; and all names, but those in hidden folders, where a process ends.

    Args:
        calls: in their order.
        folder: below which all of them are.
    """
    dirty: dict[str, str] = {}  # files whose bytes, and folders whose names may be lost, and what came last
    for call in calls:
        if call.failed:
            continue
        parent, to = os.path.dirname(call.path), os.path.dirname(call.to)
        if call.name in ("write", "truncate"):
            dirty[call.path] = call.name
        elif call.name == "fsync":
            dirty.pop(call.path, None)
        elif call.name in ("open", "mkdir", "link") and call.path != str(folder):
            if call.name == "link":
                parent = to or parent
            dirty[parent] = call.name
        elif call.name == "unlink":
            dirty.pop(call.path, None)
        elif call.name == "rename":
            inside = [path for path in dirty if path == call.path or path.startswith(call.path + "/")]
            for path in inside if _HIDDEN not in call.to else ():
                yield f"{_short(path, folder)} is renamed, and its last {dirty[path]} may be lost"
            for path in inside:
                dirty[call.to + path.removeprefix(call.path)] = dirty.pop(path)
            dirty[to] = "rename"
    for path, last in dirty.items():
        if _HIDDEN not in path:
            yield f"the last {last} of {_short(path, folder)} may be lost when all is done"


def _short(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder)
