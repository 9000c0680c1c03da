"""Scans and pairs of them: which files they are, and what is in the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar
from warnings import catch_warnings, simplefilter

from torch import Tensor

from l2rfast.errors import InputError, notice
from l2rfast.io import FORMATS, Volume, as_volume, read_labels, read_landmarks, read_shape

from ...names import some, stem


@dataclass(frozen=True)
class Case:
    """The files of one scan.

    Attributes:
        image: 2-D or 3-D, of any format that `l2rfast.io` reads; a DICOM series is a folder.
        labels: a label map on its grid.
        landmarks: a CSV file of voxel coordinates, see `l2rfast.io.read_landmarks`; set by hand, as a rule.
        keypoints: likewise; found by an algorithm, as a rule. Learn2Reg measures each for itself.
    """

    image: Path
    labels: Path | None = None
    landmarks: Path | None = None
    keypoints: Path | None = None

    @property
    def name(self) -> str:
        return stem(self.image)

    @property
    def files(self) -> dict[str, Path]:
        """Those that there are, by the names of the attributes."""
        return {name: file for name, file in vars(self).items() if file is not None}


KINDS = tuple(field.name for field in fields(Case))[1:]  # of what there may be beside an image


@dataclass(frozen=True)
class Pair:
    """Two scans of which moving is to be registered to fixed."""

    fixed: Case
    moving: Case


class AllPairs(Sequence[Pair]):
    """All ordered pairs of two of the cases; of thousands there are too many for a list."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases) * max(len(self.cases) - 1, 0)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        fixed, other = divmod(range(len(self))[index], len(self.cases) - 1)
        return Pair(self.cases[fixed], self.cases[other + (other >= fixed)])


@dataclass(frozen=True)
class Pairs:
    """What there is to train on, what is kept for validation, and what for a test after all that."""

    training: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair] = ()

    @property
    def evaluated(self) -> Sequence[Pair]:
        """Those for validation; where there are none, those for the test; where there are none, all."""
        return self.validation or self.test or self.training

    def identity(self) -> str:
        """What tells them from others, wherever the files lie: the names of the cases, what there is of each beside
        the image, and the size of the image; and which of them are pairs.
        """
        digest = hashlib.blake2b(digest_size=8)
        for pairs in (self.training, self.validation):
            cases = cases_of(pairs)
            names = names_of(cases)
            digest.update(repr([(names[case], *case.files, _size(case.image)) for case in cases]).encode())
            if not isinstance(pairs, AllPairs):
                digest.update(repr([(names[pair.fixed], names[pair.moving]) for pair in pairs]).encode())
        return f"{len(self.training)} pairs, {len(self.validation)} for validation, {digest.hexdigest()}"


def cases_of(pairs: Sequence[Pair]) -> Sequence[Case]:
    """Each once."""
    if isinstance(pairs, AllPairs):
        return pairs.cases
    return list(dict.fromkeys(case for pair in pairs for case in (pair.fixed, pair.moving)))


def names_of(cases: Collection[Case]) -> dict[Case, str]:
    """What tells them from one another: their names, or, where images in several folders have one name, the paths of
    all from the folder that they share.
    """
    names = {case: case.name for case in cases}
    if len(set(names.values())) == len({case.image for case in cases}):
        return names
    shared = os.path.commonpath([case.image.absolute().parent for case in cases])
    return {case: os.path.relpath(case.image, shared) for case in cases}


@dataclass(frozen=True, eq=False)
class Scan:
    """What is in the files of a case."""

    image: Volume
    labels: Volume | None = None
    landmarks: Tensor | None = None
    keypoints: Tensor | None = None


T = TypeVar("T")


def kept(load: Callable[[Case], T]) -> Callable[[Case], T]:
    """Keeps in memory what a function loads of cases, the last 64, as long as the files stay as they are."""

    @lru_cache(maxsize=64)
    def of_files(case: Case, states: tuple[tuple[int, int] | None, ...]) -> T:
        return load(case)

    @wraps(load)
    def of_case(case: Case) -> T:
        return of_files(case, tuple(map(_state, case.files.values())))

    return of_case


def _state(file: Path) -> tuple[int, int] | None:
    try:
        state = file.stat()
    except OSError:  # the reader will say it
        return None
    return state.st_mtime_ns, state.st_size


@kept
def read(case: Case) -> Scan:
    """
    Raises:
        InputError: a file that cannot be read, or does not fit the others.
    """
    image = as_volume("data", case.image, dims=(2, 3))
    return Scan(
        image,
        None if case.labels is None else read_labels(case.labels, image, "data"),
        *(None if file is None else read_landmarks(file, image) for file in (case.landmarks, case.keypoints)),
    )


def check_axes(first: Case, ndim: int, images: Mapping[Case, Volume]) -> None:
    """
    Raises:
        InputError: images that are not of as many axes as the first case's.
    """
    for case, image in images.items():
        if image.data.ndim != ndim:
            raise InputError(f"data: expected scans of as many axes, got {first.image} and {case.image}")


def check_size(first: Case, size: Sequence[int], case: Case, image: Volume, multiple: int = 1) -> None:
    """See that images have one size, where they are padded to multiples.

    Raises:
        InputError: an image that cannot be in a batch with the first case's, which has that size.
    """
    found = tuple(image.data.shape)
    if any(-(-a // multiple) != -(-b // multiple) for a, b in zip(found, size, strict=True)):
        raise InputError(
            f"batch: expected 1, or scans of one size, got {tuple(size)} of {first.image} and {found} of {case.image}"
        )


def _size(image: Path) -> tuple[int, ...] | None:
    try:
        with catch_warnings():
            simplefilter("ignore")
            return read_shape(image)
    except InputError:  # reading it says what is wrong
        return None


def images_among(files: Sequence[Path]) -> list[Path]:
    """Those of one format: in a folder a picture beside a scan is of the scan, and a second format holds copies."""
    by_format = [[file for file in files if file.name.lower().endswith(suffixes)] for suffixes in FORMATS]
    return next(filter(None, by_format), [])


def visible(folder: Path) -> Iterator[Path]:
    """What is in a folder, in order, but for hidden files: macOS puts one beside every file."""
    return (file for file in sorted(folder.iterdir()) if not file.name.startswith("."))


def existing(file: Path) -> Path:
    """
    Raises:
        InputError: there is no such file, nor a folder, as of a DICOM series; but one with slashes is taken where its
            path has backslashes.
    """
    for found in (file, Path(str(file).replace("\\", "/"))):
        if os.path.exists(found):  # a name that no file can have is not there either
            return found
    raise InputError(f"data: expected the file {file}, which is not there")


def say_what_is_not_used(where: Path, names: Sequence[str], why: str = "") -> None:
    if names:
        notice(f"data: not used of {where}: {some(names)}{why and f', {why}'}")


def say_what_one_lacks(pairs: Sequence[Pair]) -> None:
    """Of pairs: what only one of the two has, of which nothing can be measured."""
    for kind in KINDS if not isinstance(pairs, AllPairs) else ():
        alone = [p for p in pairs if (getattr(p.fixed, kind) is None) != (getattr(p.moving, kind) is None)]
        if alone:
            names = some(f"{pair.fixed.name} and {pair.moving.name}" for pair in alone)
            notice(f"data: {kind} of only one of {names}: nothing is measured on them")


def say_what_some_lack(cases: Sequence[Case]) -> None:
    """Of cases of one kind: who has no labels, where others have."""
    without = [case.name for case in cases if case.labels is None]
    if 0 < len(without) < len(cases):
        notice(f"data: no labels of {some(without)}, but of others")
