"""The inputs: files made, and damaged by the same seed in the same way."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import NamedTuple

from .mutations import mutated
from .targets import TARGETS, Target


class Input(NamedTuple):
    """A file that was damaged.

    Attributes:
        path: what is read: the file, or the folder that it is in.
        file: that was damaged.
        seed, data: its content before and after.
    """

    path: Path
    file: Path
    seed: bytes
    data: bytes


class Inputs:
    """Makes them, one at a time, in a folder.

    Args:
        folder: for what is made, which is empty.
    """

    def __init__(self, folder: Path) -> None:
        self._seeds, self._work = folder / "seeds", folder / "work"
        self._known: dict[Path, dict[Path, bytes]] = {}

    def seed(self, target: Target, make: int, suffix: str) -> Path:
        """A file, or a folder, that can be read, beside what belongs to it."""
        folder = self._seeds / f"{TARGETS.index(target)}-{make}{suffix}"
        path = folder / (target.file or f"case{suffix}")
        if folder not in self._known:
            folder.mkdir(parents=True)
            target.makes[make](path)
            self._known[folder] = {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        return path

    def files(self, path: Path) -> dict[Path, bytes]:
        """The content of the files of a seed, by their names."""
        return self._known[path.parent]

    def make(self, target: Target, index: int, seed: int) -> Input:
        """An input of a format, by its number."""
        rng = Random(f"{seed} {target.name} {index}")
        path = self.seed(target, rng.randrange(len(target.makes)), rng.choice(target.suffixes))
        files = self._known[folder := path.parent]
        names = sorted(files)
        own = [name for name in names if folder / name == path or path in (folder / name).parents] or names
        name = rng.choice(own if rng.random() < 0.8 else names)
        return self.put(path, name, mutated(files[name], rng, target.fields if folder / name == path else ()))

    def put(self, path: Path, name: Path, data: bytes) -> Input:
        """A seed with another content of one of its files."""
        folder = path.parent
        shutil.rmtree(self._work, ignore_errors=True)
        for other, content in self._known[folder].items():
            file = self._work / other
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data if other == name else content)
        return Input(self._work / path.name, self._work / name, self._known[folder][name], data)

    def again(self, made: Input, data: bytes) -> Input:
        """The last one with another content."""
        made.file.write_bytes(data)
        return made._replace(data=data)
