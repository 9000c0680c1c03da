"""What every format of transforms is given, and the reasons that several have to refuse one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...world import Grid, Transform
from ..headers import affine_of
from ..volume import Volume, axes_in_itk

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS from it, and it from RAS


class Grids(NamedTuple):
    """The grids between which a transform goes, as far as they are known.

    Attributes:
        fixed: that images are resampled to: a transform takes its places to those of moving.
        moving: of the image that is resampled.
    """

    fixed: Grid | None = None
    moving: Grid | None = None

    def need(self, which: str, why: str) -> Grid:
        """The one that is called ``"fixed"`` or ``"moving"``.

        Raises:
            InputError: it is not known.
        """
        grid: Grid | None = getattr(self, which)
        if grid is None:
            raise InputError(f"{which}: expected the {which} image, of which {why}")
        return grid


class Format(NamedTuple):
    """One format: what its module offers.

    Attributes:
        name: by which it is asked for, ``--to NAME`` and ``NAME:PATH``.
        text: what it is, in a few words.
        knows: whether a file is one, by its name and what it begins with; of a file that is there.
        read: a file to a transform, fixed -> moving in RAS millimetres. Raises OSError, ValueError, TypeError, KeyError
            or IndexError where it is none, and `InputError` where more has to be known.
        write: a transform to a file; None where the format is only read.
        suffixes: of the files that it writes, the usual first.
    """

    name: str
    text: str
    knows: Callable[[Path], bool]
    read: Callable[[Path, Grids], Transform]
    write: Callable[[Path, Transform, Grids], None] | None
    suffixes: tuple[str, ...]


def axes_of(transform: Transform, grids: Grids) -> int:
    """2 where fixed is a slice that has two axes in ITK; where it is not known, the transform's own."""
    if grids.fixed is None:
        return transform.ndim
    return axes_in_itk(Volume(torch.empty(grids.fixed.shape, device="meta"), grids.fixed.affine))


def linear(transform: Transform, kind: str) -> np.ndarray:
    """The (4, 4) matrix of a transform for a format that has no more.

    Raises:
        InputError: the transform is no linear map.
    """
    if transform.matrix is None:
        raise InputError(f"transform: expected a linear map, as {kind} holds no other, got a deformation")
    return transform.matrix


def named(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the name ends so, in any case of letters."""
    return path.name.lower().endswith(suffixes)


def head(path: Path, size: int = 512) -> bytes:
    """What a file begins with."""
    with path.open("rb") as file:
        return file.read(size)


def rows_of_four(path: Path) -> np.ndarray | None:
    """The (4, 4) matrix of a text that is four rows of four numbers and nothing else; None of others.

    Several programs write such texts, and mean different things by them.
    """
    return square(path, 4)


def square(path: Path, size: int) -> np.ndarray | None:
    """As `rows_of_four`, of so many rows."""
    text = head(path, 4096)
    try:
        rows = [
            [float(number) for number in line.split()] for line in text.decode("ascii").splitlines() if line.strip()
        ]
    except ValueError:
        return None
    return np.array(rows) if [len(row) for row in rows] == [size] * size else None


def is_four_rows(path: Path) -> bool:
    """Whether a file is such a text, by its name too: of all tools that write one, each names it as it likes."""
    return named(path, (".mat", ".txt", ".xfm")) and rows_of_four(path) is not None


def write_rows(path: Path, matrix: np.ndarray) -> None:
    """What `square` reads."""
    path.write_text("".join(" ".join(f"{value:.17g}" for value in row) + "\n" for row in matrix))


def less_places(places: Tensor, affine: np.ndarray, frame: np.ndarray | None = None) -> Tensor:
    """(3, D, H, W) float32 of places, each less that of its voxel, in RAS millimetres.

    Args:
        places: (3, D, H, W).
        affine: (4, 4), of the voxels.
        frame: (4, 4), of the places; RAS millimetres when None.
    """
    voxels = [
        torch.arange(n, dtype=torch.float64).view([-1 if k == j else 1 for j in range(3)])
        for k, n in enumerate(places.shape[1:])
    ]
    vectors = torch.empty_like(places, dtype=torch.float32)
    for vector, there, here in zip(
        vectors, (np.eye(4) if frame is None else frame).tolist(), affine.tolist(), strict=False
    ):
        total = torch.full(vector.shape, there[3] - here[3], dtype=torch.float64)
        for k, (place, voxel) in enumerate(zip(places, voxels, strict=True)):
            if there[k]:
                total.add_(place, alpha=there[k])
            total.sub_(voxel, alpha=here[k])
        vector.copy_(total)
    return vectors


def sform_first(image: Any, tool: str) -> np.ndarray:
    """(4, 4) of the grid of a NIfTI file by a tool that takes the sform wherever it has a code, else the qform, and no
    notice of units.

    Raises:
        InputError: images with such a header lie elsewhere by ITK's rules, as by ours.
    """
    header = image.header
    theirs: np.ndarray = header.get_sform() if header["sform_code"] > 0 else header.get_qform()
    ours, _ = affine_of("its header", image, stored=True)
    if not Grid(image.shape[:3], ours).agrees(Grid(image.shape[:3], theirs)):
        raise InputError(
            f"expected a header that has one reading; {tool} takes the sform whenever it has a code, and millimetres "
            "for any unit, so that images that lie elsewhere by ITK's rules do not fit its field"
        )
    return theirs
