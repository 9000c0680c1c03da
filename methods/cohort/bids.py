"""A cohort of a BIDS data set: the images of one suffix, to a template or to each other.

They are found by one glob, as BIDS says where they lie: ``sub-*/[ses-*/]<datatype>/sub-*_<suffix>.nii[.gz]``. pybids
would index the whole data set first, every file and its sidecars, into a data base, and bring SQLAlchemy, pandas and
more: none of what it knows beyond the names of files is needed for that.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from itertools import combinations
from pathlib import Path

from l2rfast.errors import InputError, notice

from ..names import Entities, parts, some, stem
from .listed import Listed, checked

# Of which entity the two images of a pair differ; of a template there is one image.
PAIRS = {"template": None, "sessions": "ses", "all": "sub"}


def find_pairs(name: str, root: Path, *, suffix: str = "T1w", pairs: str = "template") -> list[Listed]:
    """The pairs of a BIDS data set, in the order of subjects, sessions and so on, numbers in names by their size.

    Args:
        name: of the argument, for messages.
        root: of the data set; of derivatives a folder of them, as ``derivatives/fmriprep``.
        suffix: of the images: T1w, T2w, FLAIR, ...
        pairs: which there are. Entities are what stands in a name before the suffix, as ``sub-01`` and ``run-1``.

            - template: every image is moving, and what is fixed is told for all. It is called by its entities:
              ``sub-01_ses-2``.
            - sessions: every image of a subject is moving, and fixed is the first of the same entities but for the
              session: ``sub-01_from-ses2_to-ses1``, as BIDS calls transforms.
            - all: two subjects, once, at the same entities but for the subject; fixed is the first of them:
              ``ses-1_from-sub02_to-sub01``. Of N subjects there are N (N - 1) / 2 for each session and so on.

            Images that have no other one are said.

    Raises:
        InputError: no image of that suffix, or no pair of them; two images of the same entities.
    """
    if pairs not in PAIRS:
        raise InputError(f"--bids-pairs: expected one of {', '.join(PAIRS)}, got {pairs!r}")
    images = _images(name, root, suffix)
    if not (root / "dataset_description.json").is_file():
        notice(f"{name}: no dataset_description.json in {root}, which a BIDS data set has; taken for one all the same")
    # That no two have the same name, before they are paired.
    single = checked([Listed(_id(file), {"moving": (str(file),)}, str(file)) for file in images])
    entity = PAIRS[pairs]
    return single if entity is None else _paired(name, root, images, entity)


def _images(name: str, root: Path, suffix: str) -> list[Path]:
    """Sorted; those that are links to nothing, as of DataLad, too.

    Raises:
        InputError: none of that suffix.
    """
    found = _files(root, suffix)
    if not found:
        others = sorted({parts(file)[1] for file in _files(root)})
        if not others:
            raise InputError(
                f"{name}: expected a BIDS data set, with images sub-*/*/sub-*.nii.gz, found none in {root}"
            )
        raise InputError(f"--bids-suffix: expected what images in {root} have ({', '.join(others)}), got {suffix!r}")
    return sorted(found, key=lambda file: (_by_size(file.name), file))


def _files(root: Path, suffix: str | None = None) -> list[Path]:
    """Of one suffix, which may be any text; or of all."""
    folder = Path(os.path.abspath(root))
    places = ("sub-*/*", "sub-*/ses-*/*")
    endings = (".nii", ".nii.gz")
    found = (file for place in places for end in endings for file in folder.glob(f"{place}/sub-*_*{end}"))
    return [file for file in found if suffix in (None, parts(file)[1])]


def _by_size(name: str) -> list[str | int]:
    """To sort ses-2 before ses-10: text and numbers in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _id(file: Path) -> str:
    return stem(file).rpartition("_")[0]


def _paired(name: str, root: Path, images: list[Path], entity: str) -> list[Listed]:
    """Images of the same entities but for one; of sessions the first and each other, of subjects any two."""
    alike: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for file in images:
        others, own = _apart(parts(file)[0], entity)
        alike[others].append((own, file))
    found, alone = [], []
    for others, members in alike.items():
        if len(members) == 1:
            alone.append(members[0][1].name)
        both = combinations(members, 2) if entity == "sub" else ((members[0], later) for later in members[1:])
        for (to, fixed), (source, moving) in both:
            id = "_".join(filter(None, (others, f"from-{source}", f"to-{to}")))
            found.append(Listed(id, {"fixed": (str(fixed),), "moving": (str(moving),)}, str(moving)))
    if not found:
        raise InputError(f"{name}: expected two images that differ in {entity}- alone in {root}, got {some(alone)}")
    if alone:
        notice(f"{name}: not used of {root}, as no other image differs in {entity}- alone: {some(alone)}")
    return checked(found)


def _apart(entities: Entities, entity: str) -> tuple[str, str]:
    """The other entities, as they stand in a name, and the label of this one with its name, as ``ses2``."""
    others = "_".join(f"{name}-{label}" for name, label in entities.items() if name != entity)
    return others, f"{entity}{entities.get(entity, '')}"
