"""Where the scans are: folders, tables and Learn2Reg's ``dataset.json``, as pairs to train on and to validate with."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from l2rfast.errors import InputError
from l2rfast.io import Volume, as_volume, read_labels, read_landmarks

IMAGES = (".nii", ".nii.gz")
ROLES = (("fixed", "moving"), ("us", "mr"))  # folders of pairs by name; the second is the label-reg tutorial's
REQUIRED, OPTIONAL = ("fixed", "moving"), ("labels", "landmarks")


@dataclass(frozen=True)
class Case:
    """The files of one scan.

    Attributes:
        image: NIfTI, 2-D or 3-D.
        labels: a label map on its grid.
        landmarks: a CSV file of voxel coordinates, see `l2rfast.io.read_landmarks`.
    """

    image: Path
    labels: Path | None = None
    landmarks: Path | None = None

    @property
    def name(self) -> str:
        return _stem(self.image)


@dataclass(frozen=True)
class Pair:
    """Two scans of which moving is to be registered to fixed."""

    fixed: Case
    moving: Case


@dataclass(frozen=True)
class Pairs:
    """What there is to train on, and what is kept for validation."""

    training: list[Pair]
    validation: list[Pair]


@dataclass(frozen=True, eq=False)
class Scan:
    """What is in the files of a case."""

    image: Volume
    labels: Volume | None
    landmarks: Tensor | None


@lru_cache(maxsize=64)
def read(case: Case) -> Scan:
    """Kept in memory, the last 64.

    Raises:
        InputError: a file that cannot be read, or does not fit the others.
    """
    image = as_volume("data", case.image, dims=(2, 3))
    return Scan(
        image,
        None if case.labels is None else read_labels(case.labels, image, "data"),
        None if case.landmarks is None else read_landmarks(case.landmarks, image),
    )


def find_pairs(data: str | os.PathLike[str], *, atlas: str | None = None, hold_out: int = 0) -> Pairs:
    """The pairs of a data set.

    Args:
        data: one of

            - a folder with folders ``fixed_images`` and ``moving_images`` (or ``us_images`` and ``mr_images``), and
              ``fixed_labels`` and so on beside: scans of one name are a pair.
            - a folder of NIfTI images, or with the images in a folder ``images``; label maps and landmarks of the same
              names (``.csv``) in folders ``labels`` and ``landmarks``. All ordered pairs of two cases are pairs.
            - a CSV file with the columns ``fixed`` and ``moving``, and, where they exist, ``fixed_labels``,
              ``moving_labels``, ``fixed_landmarks``, ``moving_landmarks``, and ``split``: ``training`` or
              ``validation``. Paths are relative to the file.
            - Learn2Reg's ``dataset.json``: ``training_paired_images``, or else all pairs of the cases under
              ``training``; ``registration_val`` is for validation.
        atlas: the name of the case that is always the fixed one, of a folder.
        hold_out: how many cases of a folder, or pairs of a table without ``split``, the last by name or by place, are
            kept for validation.

    Raises:
        InputError: what is not there, not of such a form, or does not leave a pair to train on.
    """
    path = Path(data)
    if hold_out < 0:
        raise InputError(f"hold_out: expected an integer >= 0, got {hold_out}")
    if atlas is not None and not path.is_dir():
        raise InputError(f"atlas: expected a folder of cases, but data is {path}")
    if path.is_dir():
        roles = next((names for names in ROLES if all((path / f"{name}_images").is_dir() for name in names)), None)
        pairs = _of_roles(path, roles, hold_out) if roles else _of_folder(path, atlas, hold_out)
    elif path.suffix.lower() == ".csv":
        pairs = _of_table(path, hold_out)
    elif path.suffix.lower() == ".json":
        if hold_out:
            raise InputError(f"hold_out: expected 0, as {path} names the pairs for validation itself")
        pairs = _of_learn2reg(path)
    else:
        raise InputError(f"data: expected a folder, a CSV file or a dataset.json, and found none at {path}")
    if not pairs.training:
        raise InputError(f"data: expected at least one pair to train on, found none in {path}")
    return pairs


def _of_folder(folder: Path, atlas: str | None, hold_out: int) -> Pairs:
    inside = folder / "images"
    images = inside if inside.is_dir() else folder
    cases = [_with_companions(file, folder) for file in sorted(images.iterdir()) if file.name.endswith(IMAGES)]
    fixed = [case for case in cases if atlas is not None and case.name == _stem(Path(atlas))]
    if atlas is not None and not fixed:
        raise InputError(f"atlas: expected one of the cases in {images}, got {atlas!r}")
    others = [case for case in cases if case not in fixed]
    split = len(others) - hold_out
    parts = others[: max(split, 0)], others[max(split, 0) :]
    training, validation = ([Pair(fixed[0], case) for case in part] if fixed else _all_pairs(part) for part in parts)
    if hold_out and not validation:
        raise InputError(f"hold_out: {hold_out} of {len(others)} cases leave no pair for validation")
    return Pairs(training, validation)


def _of_roles(folder: Path, roles: tuple[str, str], hold_out: int) -> Pairs:
    by_role = []
    for role in roles:
        images = sorted((folder / f"{role}_images").iterdir())
        cases = [_with_companions(file, folder, f"{role}_") for file in images if file.name.endswith(IMAGES)]
        by_role.append({case.name: case for case in cases})
    fixed, moving = by_role
    alone = sorted(fixed.keys() ^ moving.keys())
    if alone:
        raise InputError(f"data: expected a {roles[0]} and a {roles[1]} image of every name, but not so is {alone[0]}")
    pairs = [Pair(case, moving[name]) for name, case in fixed.items()]
    split = max(len(pairs) - hold_out, 0)
    return Pairs(pairs[:split], pairs[split:])


def _with_companions(image: Path, folder: Path, role: str = "") -> Case:
    labels = [folder / f"{role}labels" / (_stem(image) + suffix) for suffix in IMAGES]
    landmarks = folder / f"{role}landmarks" / f"{_stem(image)}.csv"
    return Case(
        image,
        next((file for file in labels if file.is_file()), None),
        landmarks if landmarks.is_file() else None,
    )


def _of_table(path: Path, hold_out: int) -> Pairs:
    known = [*REQUIRED, *(f"{role}_{kind}" for role in REQUIRED for kind in OPTIONAL), "split"]
    pairs: dict[str, list[Pair]] = {"training": [], "validation": []}
    rows = csv.DictReader(_lines(path))
    columns = rows.fieldnames or []
    if not set(REQUIRED) <= set(columns) <= set(known):
        raise InputError(f"data: expected columns among {', '.join(known)}, got {', '.join(columns)} in {path}")
    if hold_out and "split" in columns:
        raise InputError(f"hold_out: expected 0, as {path} has a column split")
    for row in rows:
        split = row.get("split") or "training"
        if split not in pairs or None in row or None in row.values():
            raise InputError(
                f"data: expected a value for each column, training or validation for split, "
                f"got {list(row.values())} in line {rows.line_num} of {path}"
            )
        pairs[split].append(Pair(*(_case(path.parent, row[role], role, row) for role in REQUIRED)))
    if hold_out:
        pairs = {"training": pairs["training"][:-hold_out], "validation": pairs["training"][-hold_out:]}
    return Pairs(**pairs)


def _case(folder: Path, image: str, role: str, row: dict[str, str]) -> Case:
    named = [row.get(f"{role}_{kind}") for kind in OPTIONAL]
    return Case(_existing(folder / image), *(_existing(folder / name) if name else None for name in named))


def _of_learn2reg(path: Path) -> Pairs:
    try:
        content = json.loads("".join(_lines(path)))
        known = {os.path.normpath(entry["image"]): entry for entry in content.get("training", [])}
        paired, held = (list(_flat(content.get(key, []))) for key in ("training_paired_images", "registration_val"))

        def case(image: str) -> Case:
            entry = known.get(os.path.normpath(image), {})
            labels, landmarks = (_beside(path.parent, image, entry, kind) for kind in ("label", "keypoints"))
            return Case(_existing(path.parent / image), labels, landmarks)

        validation, training = (
            [Pair(case(entry["fixed"]), case(entry["moving"])) for entry in entries] for entries in (held, paired)
        )
        kept = {c for pair in validation for c in (pair.fixed, pair.moving)}
        training = training or _all_pairs([c for c in map(case, known) if c not in kept])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"data: expected Learn2Reg's dataset.json, but {path} is not: {error!r}") from error
    return Pairs([pair for pair in training if pair not in validation], validation)


def _flat(entries: Any) -> Iterable[Any]:
    """Some data sets list their pairs by modality."""
    return itertools.chain.from_iterable(entries.values()) if isinstance(entries, dict) else entries


def _beside(root: Path, image: str, entry: dict[str, str], kind: str) -> Path | None:
    """What the entry of an image names, or what lies under the image's name in the folder of that kind."""
    if kind in entry:
        return _existing(root / entry[kind])
    if kind == "label":
        file = root / image.replace("images", "labels")
    else:
        file = (root / image.replace("images", "keypoints")).with_name(f"{_stem(Path(image))}.csv")
    return file if "images" in image and file.is_file() else None


def _all_pairs(cases: list[Case]) -> list[Pair]:
    return [Pair(fixed, moving) for fixed in cases for moving in cases if fixed != moving]


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"data: expected the file {file}, which is not there")
    return file


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"data: cannot read {path}: {error}") from error
