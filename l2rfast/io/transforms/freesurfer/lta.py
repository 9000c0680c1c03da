"""FreeSurfer's linear transform arrays (.lta).

Text: a type, a matrix, and where the voxels of two volumes lie, ``src``, here moving, and ``dst``, here fixed. The
matrix takes places of src to those of dst, the inverse of ours, by its type in

- 0: voxels,
- 1: RAS millimetres,
- 2: voxels times their sizes,
- 3: millimetres of surfaces, as surfa 0.6.3 writes them,
- 14: millimetres of surfaces too, but from dst to src ("register.dat").

What two volumes have to do with a matrix of type 15 (FSL's) is FSL's to say, and FreeSurfer's own programs take type 21
("coronal RAS") in two directions: these are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ....errors import InputError
from ....world import Affine, Grid, Transform
from ..format import Grids, head, linear
from .geometry import Geometry, known, surface

SUFFIXES = (".lta",)

_FRAMES: dict[int, Callable[[Grid], np.ndarray]] = {  # voxel -> what the matrix is about
    0: lambda grid: np.eye(4),
    1: lambda grid: grid.affine,
    2: lambda grid: np.diag([*np.linalg.norm(grid.affine[:3, :3], axis=0), 1.0]),
    3: surface,
    14: surface,
}
_WORLD, REGISTERED = 1, 14


def knows(file: Path) -> bool:
    """Whether it begins as they do, but for comments."""
    return b"nxforms" in head(file)


def load(file: Path, grids: Grids) -> Transform:
    """See `Format.read`."""
    lines = [line for line in file.read_text(errors="replace").splitlines() if not line.lstrip().startswith("#")]
    kind, count = (int(_entry(lines, key)[0]) for key in ("type", "nxforms"))
    if count != 1:
        raise InputError(f"expected one transform in the file, got {count}, which FreeSurfer's programs chain or blend")
    start = next((k for k, line in enumerate(lines) if line.split() == ["1", "4", "4"]), len(lines)) + 1
    matrix = np.array([line.split() for line in lines[start : start + 4]], np.float64)
    if matrix.shape != (4, 4):
        raise ValueError("a file without a matrix")
    return transform_of(matrix, kind, Grids(_volume(lines, "dst"), _volume(lines, "src")), grids)


def transform_of(matrix: np.ndarray, kind: int, own: Grids, grids: Grids) -> Transform:
    """Fixed -> moving, of a matrix (4, 4) of a type.

    Args:
        matrix: of the file.
        kind: its type.
        own: the grids that the file tells.
        grids: what is known besides, where it tells none.

    Raises:
        InputError: a type that is not read, or more has to be known of the images.
    """
    if kind not in _FRAMES:
        raise InputError(f"expected a matrix of type {', '.join(map(str, _FRAMES))}, got type {kind}")
    there = Affine(matrix)
    if kind == _WORLD:
        return there.inverse
    fixed, moving = known(own, grids)
    back = there if kind == REGISTERED else there.inverse
    source, target = (grid.affine @ np.linalg.inv(_FRAMES[kind](grid)) for grid in (moving, fixed))
    found = source @ back.matrix @ np.linalg.inv(target)
    found[3] = 0, 0, 0, 1
    return Affine(found)


def store(file: Path, transform: Transform, grids: Grids) -> None:
    """Of type 1, with both volumes, which FreeSurfer's programs want.

    Raises:
        InputError: a deformation, or a volume is not known.
    """
    matrix = Affine(linear(transform, "an .lta file")).inverse.matrix
    why = "an .lta file tells where the voxels lie"
    lines = [
        "type      = 1 # LINEAR_RAS_TO_RAS",
        "nxforms   = 1",
        "mean      = 0.0000 0.0000 0.0000",
        "sigma     = 1.0000",
        "1 4 4",
        *(_line(row) for row in matrix),
        *_told("src", grids.need("moving", why)),
        *_told("dst", grids.need("fixed", why)),
    ]
    file.write_text("\n".join(lines) + "\n")


def _volume(lines: list[str], which: str) -> Grid | None:
    """None where it is not there, or not valid."""
    start = next((k for k, line in enumerate(lines) if line.split() == [which, "volume", "info"]), None)
    if start is None:
        return None
    block = lines[start + 1 : start + 9]
    if not int(_entry(block, "valid")[0]):
        return None
    names = ("volume", "voxelsize", "xras", "yras", "zras", "cras")
    size, spacing, *axes, centre = (np.array(_entry(block, name)[:3], np.float64).reshape(3) for name in names)
    return Geometry(size.astype(np.int64), spacing, np.stack(axes), centre).grid()


def _entry(lines: list[str], key: str) -> list[str]:
    """What is said of a key, in words, of which there is at least one."""
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == key and (words := value.split("#")[0].split()):
            return words
    raise ValueError(f"a file without {key}")


def _told(which: str, grid: Grid) -> list[str]:
    size, spacing, axes, centre = Geometry.of(grid)
    return [
        f"{which} volume info",
        "valid = 1  # volume info valid",
        "filename = none",
        f"volume = {' '.join(map(str, size))}",
        f"voxelsize = {_line(spacing)}",
        *(f"{name}ras   = {_line(axis)}" for name, axis in zip("xyz", axes, strict=True)),
        f"cras   = {_line(centre)}",
    ]


def _line(numbers: np.ndarray) -> str:
    return " ".join(f"{number:.15e}" for number in numbers)
