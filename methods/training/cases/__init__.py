"""Where the scans are: folders, tables and Learn2Reg's ``dataset.json``, as pairs to train on and to validate with.

What is there and not used is said in an `l2rfast.errors.InputWarning`, by name.
"""

from __future__ import annotations

import os
from pathlib import Path

from l2rfast import _check
from l2rfast.errors import InputError

from .bids import is_bids, of_bids
from .case import (
    KINDS,
    AllPairs,
    Case,
    Pair,
    Pairs,
    Scan,
    cases_of,
    check_axes,
    check_size,
    kept,
    names_of,
    read,
    say_what_one_lacks,
)
from .folder import of_folder, of_roles, roles_of
from .learn2reg import of_learn2reg
from .table import of_table

__all__ = [
    "KINDS",
    "AllPairs",
    "Case",
    "Pair",
    "Pairs",
    "Scan",
    "cases_of",
    "check_axes",
    "check_size",
    "find_pairs",
    "kept",
    "names_of",
    "read",
    "say_what_one_lacks",
]


def find_pairs(
    data: str | os.PathLike[str], *, atlas: str | None = None, hold_out: int = 0, to_train: bool = True
) -> Pairs:
    """The pairs of a data set.

    Args:
        data: one of

            - a folder with folders ``fixed_images`` and ``moving_images`` (or ``us_images`` and ``mr_images``), and
              ``fixed_labels`` and so on beside: scans of one name are a pair.
            - a folder of images, or with the images in a folder ``images``; label maps and points of the same
              names (``.csv``) in folders ``labels``, ``landmarks`` and ``keypoints``; see
              `methods.training.cases.folder` for other names. All ordered pairs of two cases are pairs.
            - a BIDS data set, see `methods.training.cases.bids`; likewise.
            - a table with the columns ``fixed`` and ``moving``, see `methods.training.cases.table`.
            - Learn2Reg's ``dataset.json``, see `methods.training.cases.learn2reg`.
        atlas: the name of the case that is always the fixed one, of a folder.
        hold_out: how many cases of a folder, or pairs of a table without ``split``, the last by name or by place, are
            kept for validation.
        to_train: whether there have to be pairs to train on.

    Raises:
        InputError: what is not there, not of such a form, or does not leave a pair.
    """
    path = Path(data)
    hold_out = _check.at_least("hold_out", hold_out, 0)
    if atlas is not None and not os.path.isdir(path):
        raise InputError(f"atlas: expected a folder of cases, but data is {path}")
    if os.path.isdir(path):
        if (roles := roles_of(path)) is not None:
            if atlas is not None:
                raise InputError(f"atlas: expected a folder of cases, but {path} has fixed and moving ones")
            pairs = of_roles(path, roles, hold_out)
        else:
            pairs = (of_bids if is_bids(path) else of_folder)(path, atlas, hold_out)
    elif path.suffix.lower() in (".csv", ".tsv"):
        pairs = of_table(path, hold_out)
    elif path.suffix.lower() == ".json":
        if hold_out:
            raise InputError(f"hold_out: expected 0, as {path} names the pairs for validation itself")
        pairs = of_learn2reg(path)
    else:
        raise InputError(f"data: expected a folder, a CSV file or a dataset.json, and found none at {path}")
    if to_train and hold_out and pairs.validation and not pairs.training:
        raise InputError(f"hold_out: expected to leave a pair to train on of those in {path}, got {hold_out}")
    if not (pairs.training if to_train else pairs.evaluated):
        raise InputError(f"data: expected at least one pair{' to train on' * to_train}, found none in {path}")
    return pairs
