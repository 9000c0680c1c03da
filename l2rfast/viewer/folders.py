"""What a server sends of a folder of results, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path

from .page import NAME
from .server import Content

_KINDS = {".html": "text/html; charset=utf-8", ".png": "image/png", ".json": "application/json"}
_KINDS |= {".csv": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8", ".txt": "text/plain; charset=utf-8"}


class Folder:
    """Files of a folder by their names, as far as they are regular ones and among those that a run writes; no links.

    Args:
        place: the folder.
        names: of the files.
    """

    def __init__(self, place: Path, names: Collection[str]) -> None:
        self.place, self.names = place, frozenset(names)

    def __call__(self, name: str) -> Content | None:
        name = name or NAME
        if name not in self.names:
            return None
        try:
            descriptor = os.open(self.place / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return Content(_KINDS.get(Path(name).suffix, "application/octet-stream"), file.read())


class Result(Folder):
    """Those of a registration, but the page, and what it asks for, as they are made when they are asked for.

    Args:
        place, names: as of `Folder`.
        make: gives the page and the volumes that it asks for, by their names.
    """

    def __init__(self, place: Path, names: Collection[str], make: Callable[[], tuple[str, dict[str, bytes]]]) -> None:
        super().__init__(place, names)
        self._make, self._volumes = make, dict[str, bytes]()

    def __call__(self, name: str) -> Content | None:
        if name in ("", NAME):
            page, self._volumes = self._make()
            return Content(_KINDS[".html"], page.encode("utf-8", "replace"))
        if name in self._volumes:
            return Content("application/gzip", self._volumes[name])
        return super().__call__(name)


class Study(Folder):
    """Those of a cohort, and of its pairs, in folders below it that are none of elsewhere.

    Args:
        place, names: as of `Folder`.
        pairs: the folder of the folders of the pairs.
        result: of a pair's.
    """

    def __init__(self, place: Path, names: Collection[str], pairs: Path, result: Callable[[Path], Result]) -> None:
        super().__init__(place, names)
        self._pairs, self._result = pairs, result
        self._open: tuple[str, Result] | None = None  # one alone is kept: each has its volumes in memory

    def __call__(self, name: str) -> Content | None:
        above, _, inside = name.partition("/")
        if above != self._pairs.name or not inside:
            return super().__call__(name)
        id, _, file = inside.partition("/")
        pair = self._pairs / id
        if id in ("", ".", "..") or not file or not (_own(self._pairs) and _own(pair)):
            return None
        if self._open is None or self._open[0] != id:
            if file != NAME:  # a picture, of the list of all
                return self._result(pair)(file)
            self._open = id, self._result(pair)
        return self._open[1](file)


def _own(folder: Path) -> bool:
    """Whether it is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(folder.lstat().st_mode)
    except (OSError, ValueError):  # a name too long for the disk, or none at all
        return False
