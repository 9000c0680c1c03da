"""FreeSurfer's transforms: linear ones (.lta, register.dat), morphs (.m3z, .m3d) and warps (.mgz).

FreeSurfer's binaries are not here: what is said of them is from the formats themselves, and is tested against surfa,
nitransforms and nibabel, and by hand.
"""

from __future__ import annotations

from pathlib import Path

from ....world import Transform
from ..format import Format, Grids, named
from . import dat, lta, m3z, warp

_FILES = (lta, dat, m3z, warp)


def _knows(file: Path) -> bool:
    return any(named(file, kind.SUFFIXES) and kind.knows(file) for kind in _FILES)


def _read(file: Path, grids: Grids) -> Transform:
    kind = next((kind for kind in _FILES if named(file, kind.SUFFIXES)), None)
    if kind is None:
        raise ValueError("a file with another suffix")
    transform: Transform = kind.load(file, grids)
    return transform


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    (lta if named(file, lta.SUFFIXES) else warp).store(file, transform, grids)


FORMAT = Format(
    "freesurfer", "a transform of FreeSurfer or surfa", _knows, _read, _write, (*warp.SUFFIXES, *lta.SUFFIXES)
)
