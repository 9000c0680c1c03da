"""Public scans and network weights that the demo, the examples and the tests use.

A file is looked up in the folder that the environment variable ``L2RFAST_DATA`` names, then in the
user's cache. Its size and sha256 are checked wherever it comes from.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from .._folders import made
from ..errors import InputError
from ..output import UNWRITABLE, written_whole

ENVIRONMENT = "L2RFAST_DATA"
_PIECE = 1 << 14  # bytes, of a download


@dataclass(frozen=True)
class Record:
    """One public file.

    Attributes:
        name: in the registry, with the folders before it.
        bytes: its size.
        sha256: of its contents, in hexadecimal digits.
        url: its address.
    """

    name: str
    bytes: int
    sha256: str
    url: str


def names() -> list[str]:
    """The names of all files, in the order of the registry."""
    return list(_registry())


def record(name: str) -> Record:
    """What is known of a file.

    Raises:
        InputError: no file has this name.
    """
    if name not in _registry():
        close = difflib.get_close_matches(name, _registry(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "see: l2rfast data list"
        raise InputError(f"name: expected a file of the registry, got {name!r}; {hint}")
    return _registry()[name]


def local(name: str) -> Path | None:
    """Where a file lies on this machine, unchecked; None if it does not.

    Raises:
        InputError: no file has this name.
    """
    candidates = (folder / record(name).name for folder in _folders())
    return next((file for file in candidates if file.is_file()), None)


def path(name: str) -> Path:
    """The path of a file that is on this machine.

    Raises:
        InputError: no file has this name, it is not on this machine, or its contents are not the expected.
    """
    file = local(name)
    if file is None:
        places = " or ".join(str(folder) for folder in _folders())
        raise InputError(f"{name}: not found in {places}; get it with: l2rfast data fetch {name}")
    if not _intact(file, record(name)):
        wanted = f"{record(name).bytes} bytes of sha256 {record(name).sha256}"
        raise InputError(f"{file}: expected {wanted}; delete the file or fetch it again")
    return file


def fetch(name: str) -> Path:
    """The path of a file, downloaded to the user's cache if it is not on this machine.

    A damaged file in the cache is downloaded again; one in ``L2RFAST_DATA``, which is not ours to change,
    is an error.

    Raises:
        InputError: no file has this name, the download fails, or the contents are not the expected.
    """
    file = local(name)
    if file is not None and (_cache() not in file.parents or _intact(file, record(name))):
        return path(name)
    _download(record(name))
    return path(name)


def _download(wanted: Record) -> None:
    import pooch  # type: ignore[import-untyped]  # not needed where the files lie, as on machines without a network

    pooch.get_logger().setLevel("WARNING")
    get = pooch.HTTPDownloader(progressbar=_Limit(wanted), chunk_size=_PIECE)
    file = _cache() / wanted.name
    try:
        made(file.parent)
    except OSError as error:
        raise InputError(f"{file.parent}: expected a folder that can be written ({error.strerror})") from error
    with written_whole(file) as part:
        try:
            pooch.retrieve(wanted.url, f"sha256:{wanted.sha256}", fname=part.name, path=part.parent, downloader=get)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                raise
            raise InputError(
                f"{wanted.name}: expected to download it from {wanted.url}, but got {type(error).__name__}"
            ) from error


class _Limit:
    """In the place of a progress bar, to which pooch tells each piece that has come: ends a download that goes on and
    on, before it fills the disk."""

    def __init__(self, wanted: Record) -> None:
        self._wanted, self._come = wanted, 0
        self.total = 0  # which pooch sets

    def update(self, count: int) -> None:
        self._come += count
        if self._come >= self._wanted.bytes + _PIECE:  # of the last piece the whole is told
            raise InputError(
                f"{self._wanted.name}: expected to download {self._wanted.bytes} bytes from {self._wanted.url}, but "
                "more came"
            )

    def reset(self) -> None:
        self._come = 0

    def close(self) -> None:
        """Nothing is shown."""


def _folders() -> list[Path]:
    named = os.environ.get(ENVIRONMENT)
    return [*([Path(named)] if named else []), _cache()]


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("l2rfast"))


def _intact(file: Path, expected: Record) -> bool:
    if file.stat().st_size != expected.bytes:
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == expected.sha256


@cache
def _registry() -> dict[str, Record]:
    table = resources.files("l2rfast").joinpath("registry.tsv").read_text()
    rows = csv.DictReader(table.splitlines(), delimiter="\t")
    return {r["name"]: Record(r["name"], int(r["bytes"]), r["sha256"], r["url"]) for r in rows}
