"""Folders of scans.

Images lie in a folder ``images`` (or ``imagesTr``, as nnU-Net and Learn2Reg have it, or ``img``) or in the folder
itself, and beside them in ``labels`` (``labelsTr``, ``seg``), ``landmarks`` (``landmarksTr``) and ``keypoints``
(``keypointsTr``) what belongs to them. It belongs to an image

- of its name;
- whose name is the same up to an ending ``_vol``, ``_img`` or ``_image`` of the image and ``_seg``, ``_dseg``,
  ``_aseg``, ``_segmentation``, ``_gt``, ``_label`` or ``_labels`` of a label map (or ``-seg`` and so on);
  such label maps may also lie among the images. A ``_mask`` there is no label map, and no image beside others;
- whose name has a channel behind, ``case_0000.nii.gz`` for labels ``case.nii.gz``. The first channel of a case is
  used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from l2rfast.errors import InputError

from ...names import stem
from .case import (
    AllPairs,
    Case,
    Pair,
    Pairs,
    images_among,
    say_what_is_not_used,
    say_what_some_lack,
    visible,
)

ROLES = (("fixed", "moving"), ("us", "mr"))  # folders of pairs by name; the second is the label-reg tutorial's
FOLDERS = {
    "images": ("images", "imagesTr", "img"),
    "labels": ("labels", "labelsTr", "seg"),
    "landmarks": ("landmarks", "landmarksTr"),
    "keypoints": ("keypoints", "keypointsTr"),
}
OF_IMAGES = re.compile(r"_(vol|img|image)$", re.IGNORECASE)
OF_LABELS = re.compile(r"[_-](a?seg|dseg|segmentation|gt|label|labels)$", re.IGNORECASE)
OF_MASKS = re.compile(r"[_-](mask|brainmask)$", re.IGNORECASE)
CHANNEL = re.compile(r"_\d{4}$")
BESIDE = (".json", ".raw", ".raw.gz", ".zraw")


def of_folder(root: Path, atlas: str | None, hold_out: int) -> Pairs:
    """
    Raises:
        InputError: an atlas that is not there, or too few cases.
    """
    found = {kind: next((root / n for n in names if (root / n).is_dir()), None) for kind, names in FOLDERS.items()}
    images = found.pop("images") or root
    cases = _cases(images, {kind: folder for kind, folder in found.items() if folder is not None})
    known = {images, *found.values()}
    if images != root:
        say_what_is_not_used(root, [file.name for file in visible(root) if file not in known])
    return split(cases, atlas, hold_out, images)


def split(cases: Sequence[Case], atlas: str | None, hold_out: int, where: Path) -> Pairs:
    """All ordered pairs of cases, or of the atlas and each; the last cases for validation.

    Raises:
        InputError: an atlas that is not there, or too few cases.
    """
    fixed = [case for case in cases if atlas is not None and case.name == stem(Path(atlas))]
    if atlas is not None and not fixed:
        raise InputError(f"atlas: expected one of the cases in {where}, got {atlas!r}")
    others = [case for case in cases if case not in fixed]
    at = max(len(others) - hold_out, 0)
    parts = others[:at], others[at:]
    training, validation = ([Pair(fixed[0], c) for c in part] if fixed else AllPairs(part) for part in parts)
    if hold_out and not validation:
        least = 1 if fixed else 2
        raise InputError(
            f"hold_out: expected 0, or at least {least} of {len(others)} cases, of which the pairs for validation are, "
            f"got {hold_out}"
        )
    return Pairs(training, list(validation))


def roles_of(root: Path) -> tuple[str, str] | None:
    """What pairs in a folder are called, where it has a folder of images for each role."""
    return next((roles for roles in ROLES if all((root / f"{role}_images").is_dir() for role in roles)), None)


def of_roles(root: Path, roles: tuple[str, str], hold_out: int) -> Pairs:
    """
    Raises:
        InputError: images that are alone.
    """
    by_role: list[dict[str, Case]] = []
    known: list[Path] = []
    for role in roles:
        beside = {kind: root / f"{role}_{kind}" for kind in FOLDERS if (root / f"{role}_{kind}").is_dir()}
        known += beside.values()
        by_role.append({case.name: case for case in _cases(beside.pop("images"), beside)})
    say_what_is_not_used(root, [file.name for file in visible(root) if file not in known])
    fixed, moving = by_role
    alone = sorted(fixed.keys() ^ moving.keys())
    if alone:
        raise InputError(f"data: expected a {roles[0]} and a {roles[1]} image of every name, but not so is {alone[0]}")
    pairs = [Pair(case, moving[name]) for name, case in fixed.items()]
    at = max(len(pairs) - hold_out, 0)
    return Pairs(pairs[:at], pairs[at:])


def _cases(folder: Path, beside: Mapping[str, Path]) -> list[Case]:
    """Of the images in a folder, with what lies in the folders beside by kind; says what is not used."""
    files = [file for file in visible(folder) if file not in beside.values()]  # which may be in it
    known = dict.fromkeys(images_among(files))
    images = {stem(file): file for file in known}
    named = {name: OF_LABELS.search(name) or OF_MASKS.search(name) for name in images}
    apart = [images[name] for name, ending in named.items() if ending] if not all(named.values()) else []
    labels = [file for file in apart if OF_LABELS.search(stem(file))] if "labels" not in beside else []
    images = {name: file for name, file in images.items() if file not in apart}
    others = {kind: [*visible(place)] for kind, place in beside.items()}
    places = dict(beside)
    if labels:
        others["labels"], places["labels"] = labels, folder
    by_name = {kind: {stem(file): file for file in _of(kind, among)} for kind, among in others.items()}
    by_key = {kind: {OF_LABELS.sub("", name): file for name, file in found.items()} for kind, found in by_name.items()}
    cases: list[Case] = []
    channels: dict[str, str] = {}  # of which case: the first one's name
    more: list[str] = []
    for name, image in images.items():
        key, base = OF_IMAGES.sub("", name), CHANNEL.sub("", name)
        found = {kind: named.get(name) or by_key[kind].get(key) for kind, named in by_name.items()}
        if found.get("labels") is None and base in by_name.get("labels", {}):
            found["labels"] = by_name["labels"][base]
            if channels.setdefault(base, name) != name:
                more.append(image.name)
                continue
        cases.append(Case(image, **found))
    say_what_is_not_used(folder, more, "as only the first channel of a case is")
    rest = [file.name for file in files if not (file in known or _is_sidecar(file, named))]
    twice = [file.name for file in known if file not in images.values() and file not in labels]
    say_what_is_not_used(folder, rest + twice)
    for kind, among in others.items():
        used, names = {getattr(case, kind) for case in cases}, named | by_name[kind]
        say_what_is_not_used(places[kind], [f.name for f in among if f not in used and not _is_sidecar(f, names)])
    say_what_some_lack(cases)
    return cases


def _of(kind: str, files: Sequence[Path]) -> list[Path]:
    return images_among(files) if kind == "labels" else [file for file in files if file.suffix.lower() == ".csv"]


def _is_sidecar(file: Path, names: Collection[str]) -> bool:
    """What converters from DICOM write beside every image, and the values of an image whose header is a file."""
    return any(file.name.lower().endswith(end) and file.name[: -len(end)] in names for end in BESIDE)
