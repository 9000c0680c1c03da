"""Learn2Reg's ``dataset.json``, of any of its tasks, and what is made like it (LUMIR, the Decathlon).

To train on there are the pairs of ``training_paired_images``, or else all pairs of the images under ``training`` that
are not kept; for validation the pairs of ``registration_val`` or ``validation``; for the test those of
``registration_test`` or ``test_paired_images``. Each may be a list, or several by modality. The labels, landmarks and
keypoints of an image are those that its entry names, or that lie in the folder of their kind (``imagesTr/A.nii.gz``,
``labelsTr/A.nii.gz``, ``landmarksTr/A.csv``). Points of one pair of modalities alone are those of ``keypoints02`` for
``A_0000`` and ``A_0002``, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from os.path import isabs, isfile, normpath
from pathlib import Path
from typing import Any

from l2rfast._json import parsed
from l2rfast.errors import InputError, notice

from ...names import stem
from ...tables import text_of
from .case import KINDS, AllPairs, Case, Pair, Pairs, cases_of, existing, say_what_is_not_used

TRAINING, IMAGES = "training_paired_images", ("training", "test")
VALIDATION, TEST = ("registration_val", "validation"), ("registration_test", "test_paired_images")
ABOUT = re.compile(
    "name|description|licen[cs]e|reference|release|pairings|provided_data|registration_direction|modality|channel_names|"
    "img_shift|labels|relation|file_ending|tensorImage(Size|Shape)|num.*"
)
MODALITY = re.compile(r"_000(\d)$")
PAIR = ("fixed", "moving")
POINTS = KINDS[1:]
USED = re.compile(rf"fixed|moving|image|label|({'|'.join(POINTS)})\d*")

Entry = dict[str, str]


def of_learn2reg(path: Path) -> Pairs:
    """
    Raises:
        InputError: a file that cannot be read or is not of such a form, or files of it that are not there.
    """
    try:
        content = parsed(text_of("data", path, "a dataset.json"))
        if not isinstance(content, dict):
            raise TypeError(f"expected an object, got {str(content)[:80]}")
        files = _Files(path.parent, [entry for entry in _entries(content, IMAGES) if "image" in entry])
        validation = files.pairs(_entries(content, VALIDATION))
        for_test = [*_entries(content, TEST)]
        there = [entry for entry in for_test if files.has(entry)]
        test = files.pairs(there)
        listed = [*_entries(content, (TRAINING, IMAGES[0]))]
        told = files.pairs(entry for entry in listed if "image" not in entry)
        images = [entry["image"] for entry in listed if "image" in entry]
        untold = [] if told else list(dict.fromkeys(map(files.case, images)))
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"data: expected Learn2Reg's dataset.json, but {path} is not: {error}") from error
    recognised = {TRAINING, *IMAGES, *VALIDATION, *TEST}
    own = [key for key in content if key not in recognised and not ABOUT.fullmatch(key)]
    say_what_is_not_used(path, own + files.not_used())
    if len(there) < len(for_test):
        absent = len(for_test) - len(there)
        notice(f"data: not used of {path}: {absent} of {len(for_test)} pairs for the test, whose files are not there")
    apart = {(pair.fixed.image, pair.moving.image) for pair in (*validation, *test)}
    inside = {image for images in apart for image in images}
    if not told:
        return Pairs(AllPairs([case for case in untold if case.image not in inside]), validation, test)
    training = [pair for pair in told if (pair.fixed.image, pair.moving.image) not in apart]
    inside |= {case.image for case in cases_of(told)}
    alone = [stem(Path(image)) for image in images if path.parent / image not in inside]
    say_what_is_not_used(path, alone, "in no pair")
    return Pairs(training, validation, test)


def _inside(named: Any) -> Any:
    """What an entry names, which no file of others' may lead out of its folder.

    Raises:
        InputError: it does.
    """
    if isinstance(named, str) and (isabs(named) or ".." in re.split(r"[/\\]", named)):
        raise InputError(f"data: expected files in the folder of the dataset.json, or below, got {named!r}")
    return named


def _entries(content: dict[str, Any], keys: Iterable[str]) -> Iterator[Entry]:
    """Of lists, or of several by modality; an image may be there by its name alone."""
    for key in keys:
        found = content.get(key) or []
        if not isinstance(found, list | dict):
            raise TypeError(f"expected a list under {key}, got {found!r}")
        for entry in chain.from_iterable(found.values()) if isinstance(found, dict) else found:
            entry = {"image": entry} if isinstance(entry, str) else entry
            for name in entry.values() if isinstance(entry, dict) else ():
                _inside(name)
            named = isinstance(entry, dict) and ([entry["image"]] if "image" in entry else map(entry.get, PAIR))
            if not named or not all(isinstance(name, str) for name in named):
                raise TypeError(f"expected under {key} names of images, or of fixed and moving ones, got {entry}")
            yield entry


class _Files:
    """What there is of the images in a folder, by the entries of a file there and by their names."""

    def __init__(self, root: Path, entries: list[Entry]) -> None:
        self.root, self.entries = root, {normpath(entry["image"]): entry for entry in entries}
        self._of_pairs: list[str] = []  # keys of the entries of pairs

    def not_used(self) -> list[str]:
        """Keys of the entries, each once."""
        keys = [*chain.from_iterable(self.entries.values()), *self._of_pairs]
        return [key for key in dict.fromkeys(keys) if not USED.fullmatch(key)]

    def has(self, pair: Entry) -> bool:
        """Whether the images of a pair are there: those for a test are published later, or never."""
        return all(isfile(self.root / pair[role]) for role in PAIR)

    def pairs(self, entries: Iterable[Entry]) -> list[Pair]:
        """Those that are told, each once, or all of the images that are told."""
        images = []
        pairs = []
        for entry in entries:
            if "image" in entry:
                images.append(self.case(entry["image"]))
            else:
                pairs.append(self._pair(entry["fixed"], entry["moving"]))
                self._of_pairs += entry
        return list(dict.fromkeys([*pairs, *AllPairs(images)]))

    def case(self, image: str) -> Case:
        return self._cases((image,))[0]

    def _pair(self, fixed: str, moving: str) -> Pair:
        modalities = sorted(m[1] for image in (fixed, moving) if (m := MODALITY.search(stem(Path(image)))))
        return Pair(*self._cases((fixed, moving), "".join(modalities)))

    def _cases(self, images: tuple[str, ...], modalities: str = "") -> list[Case]:
        beside = {"labels": [self._beside(image, "label", "labels") for image in images]}
        for kind in POINTS:
            # Of the one kind or the other: whichever more of the images have.
            found = [[self._beside(image, name, name) for image in images] for name in (kind + modalities, kind)]
            beside[kind] = max(found, key=lambda files: sum(file is not None for file in files))
        return [Case(self._image(image), **{k: v[i] for k, v in beside.items()}) for i, image in enumerate(images)]

    def _image(self, image: str) -> Path:
        file = self.root / image
        # nnU-Net's files have a channel in their name, which its own list leaves out.
        ending = file.name.removeprefix(stem(file)) or ".nii.gz"
        first, second = (file.with_name(f"{stem(file)}_000{i}{ending}") for i in (0, 1))
        if isfile(file) or not isfile(first):
            return existing(file)
        if isfile(second):
            notice(f"data: of several channels in {file.parent} the first is used")
        return first

    def _beside(self, image: str, key: str, folder: str) -> Path | None:
        """What the entry of an image names, or what lies under the image's name in the folder of that kind."""
        named = self.entries.get(normpath(image), {}).get(key)
        file = self.root / (named or image.replace("images", folder))
        if key != "label" and not isfile(file):  # ThoraxCBCT's entries say .nii.gz
            file = file.with_name(f"{stem(file)}.csv")
        if named:
            return existing(file)
        return file if "images" in image and isfile(file) else None
