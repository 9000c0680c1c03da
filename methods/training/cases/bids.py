"""BIDS data sets: anatomical images of subjects, and their label maps among the derivatives.

Images are ``sub-*/[ses-*/]anat/*_T1w.nii.gz``, or those of the most frequent suffix where there are none. The label
map of an image is the file ``*_dseg.nii.gz`` of the data set or of its ``derivatives`` whose name has all entities of
the image's name and no ``space`` of its own; of several the one without a ``desc``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from l2rfast.errors import notice

from ...names import parts, some
from .case import Case, Pairs, say_what_is_not_used, say_what_some_lack, visible
from .folder import split

IMAGES = (".nii", ".nii.gz")  # BIDS has no others
PREFERRED, LABELS = "T1w", "dseg"
OF_LABELS = (LABELS, "probseg", "mask")  # of which the others are not used


def is_bids(root: Path) -> bool:
    return any(file.is_dir() and file.name.startswith("sub-") for file in visible(root))


def of_bids(root: Path, atlas: str | None, hold_out: int) -> Pairs:
    """
    Raises:
        InputError: an atlas that is not there, or too few cases.
    """
    images = [file for file in _images(root, "sub-*/**/anat/*") if file.name[0] != "."]
    maps = [file for file in images if parts(file)[1] == LABELS]
    maps += [file for file in _images(root, "derivatives/**/*") if parts(file)[1] in OF_LABELS]
    suffixes = Counter(parts(file)[1] for file in images if file not in maps)
    chosen = max(suffixes, key=lambda suffix: (suffix == PREFERRED, suffixes[suffix]), default=PREFERRED)
    others = sorted(suffixes.keys() - {chosen})
    if others:
        notice(f"data: of {root} only images {chosen} are used, none of {', '.join(others)}")
    cases = [Case(file, _labels_of(file, maps)) for file in images if parts(file)[1] == chosen]
    without = [case.image for case in cases if case.labels is None]
    others = [file.name for file in maps if any(_is_of_another_kind(file, image) for image in without)]
    say_what_is_not_used(root, others, f"as labels are {LABELS} in the space of their image")
    say_what_some_lack(cases)
    return split(cases, atlas, hold_out, root)


def _images(root: Path, pattern: str) -> list[Path]:
    return [file for file in sorted(root.glob(pattern)) if file.name.lower().endswith(IMAGES)]


def _labels_of(image: Path, maps: list[Path]) -> Path | None:
    own = parts(image)[0]
    among = {file: parts(file)[0] for file in maps if parts(file)[1] == LABELS}
    fits = [f for f, e in among.items() if own.items() <= e.items() and e.get("space") == own.get("space")]
    plain = [file for file in fits if "desc" not in among[file]]
    found = plain if len(plain) == 1 else fits
    if len(found) > 1:
        notice(f"data: no labels of {image.name}, as there are several: {some(map(str, found))}")
    return found[0] if len(found) == 1 else None


def _is_of_another_kind(file: Path, image: Path) -> bool:
    """Whether a file is made of an image, but not as its label map."""
    (own, _), (entities, suffix) = parts(image), parts(file)
    return own.items() <= entities.items() and (suffix != LABELS or entities.get("space") != own.get("space"))
