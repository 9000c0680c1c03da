"""Folders of generated scans for the tests of training and evaluation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from l2rfast.data.synthetic import Anatomy, anatomies
from l2rfast.io import Volume, write_image


def write(folder: Path, count: int, size: Sequence[int], **options: float) -> list[Anatomy]:
    """Images and labels of so many subjects, ``case0.nii.gz`` being the template; landmarks of the first two."""
    subjects = anatomies(count, size, **options)  # type: ignore[arg-type]
    for i, subject in enumerate(subjects):
        for kind, data in (("images", subject.image), ("labels", subject.labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_image(folder / kind / f"case{i}.nii.gz", Volume(data[0, 0], np.eye(4)))
    return subjects


def table(file: Path, rows: Sequence[dict[str, str]]) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file
