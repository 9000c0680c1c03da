"""How a template grows and shrinks over a cohort: mean and spread of the log Jacobian determinants, voxel by voxel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from l2rfast.errors import InputError
from l2rfast.io import Volume, write_image
from l2rfast.io.source import Source, find
from l2rfast.output import OutputFolder
from l2rfast.world import Grid

from .listed import Listed
from .study import Study

JACOBIAN = "jacobian.nii.gz"  # of a pair
FILES = ("jacobian_mean.nii.gz", "jacobian_sd.nii.gz", "jacobian_count.nii.gz")  # of the study


def write_jacobians(study: Study, pairs: Iterable[Listed]) -> None:
    """Write statistics of the natural logarithm of the Jacobian determinant over the pairs that are finished.

    Mean and sample standard deviation, float32, are of the pairs that have a finite value in a voxel, which do not fold
    there; NaN where there is none, or for the deviation only one. The count of these, int32, is the third image. They
    are summed in float64 in the order of the list, whoever finished first, with one pair's image in memory at a time.
    All three are written, or none.

    Args:
        study: whose folder they go to.
        pairs: as listed. That one grid is one space, as of a template, is up to them.

    Raises:
        InputError: no pair is finished; one has no ``jacobian.nii.gz``, or one that cannot be read; two lie on
            different grids; the files cannot be written.
    """
    group: _Group | None = None
    for path in [study.pair(pair.id) / JACOBIAN for pair in pairs if study.finished(pair.id)]:
        group = group or _Group(path)
        group.add(path)
    if group is None:
        raise InputError(f"{study.folder}: expected finished pairs for statistics of Jacobians, got none")
    with OutputFolder(study.folder, FILES) as folder:
        for name, volume in zip(FILES, group.volumes(), strict=True):
            write_image(folder.path(name), volume)


class _Group:
    """Count, mean and sum of squared deviations of images on one grid, in every voxel (Welford 1962).

    Args:
        first: an image, whose grid it is; it is not added.
    """

    def __init__(self, first: Path) -> None:
        image = _read(first)
        self.first, self.grid, self.flat = first, _grid(image), image.flat
        self.count = torch.zeros(self.grid.shape, dtype=torch.int32)
        self.mean, self.squares = (torch.zeros(self.grid.shape, dtype=torch.float64) for _ in range(2))

    def add(self, path: Path) -> None:
        """One more.

        Raises:
            InputError: it cannot be read, or lies elsewhere.
        """
        image = _read(path)
        if not self.grid.agrees(grid := _grid(image)):
            raise InputError(
                f"{self.first}, {path}: expected log Jacobians on one grid, got shapes {self.grid.shape} and "
                f"{grid.shape}, affines {self.grid.affine[:3].tolist()} and {grid.affine[:3].tolist()}"
            )
        there = image.data.isfinite()
        value = torch.where(there, image.data.double(), self.mean)  # which changes nothing
        self.count += there
        off = value - self.mean
        self.mean += off / self.count.clamp(min=1)
        self.squares += off * (value - self.mean)

    def volumes(self) -> tuple[Volume, Volume, Volume]:
        """Mean, sample standard deviation and count."""
        mean = torch.where(self.count > 0, self.mean, math.nan)
        deviation = (self.squares / (self.count - 1).clamp(min=0)).sqrt()  # of one or none 0 / 0
        one, two, three = (Volume(x, self.grid.affine, flat=self.flat) for x in (mean, deviation, self.count))
        return one, two, three


def _read(path: Path) -> Source:
    """The log Jacobian of a pair, which may hold NaN, or be 0 everywhere.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a log Jacobian of every finished pair, which --jacobian writes, got none")
    return find("log Jacobian", path, (3, 2), scaled=True)


def _grid(image: Source) -> Grid:
    return Grid(tuple(image.data.shape), image.affine)
