"""FreeSurfer's morphs (.m3z, .m3d), as talairach.m3z of mri_ca_register: read only.

Nodes at every ``spacing`` voxels of the atlas, here fixed; each tells a place of the image, here moving: in its voxels
(type 2, or where no type is told) or in RAS millimetres (type 1). Nodes of which all numbers are 0 are not valid: they
go along with the nearest that is. Big-endian, the last axis of the nodes fastest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ....world import Displacement, Transform
from ..format import Grids, less_places
from .geometry import Stream, begins, known, opened

SUFFIXES = (".m3z", ".m3d")

_VERSION = np.array(1.0, ">f4").tobytes()
_NODE = np.dtype([("first", ">f4", 3), ("place", ">f4", 3), ("of_atlas", ">i4", 3)])
_GEOMETRY, _TYPE, _LABELS = 10, 11, 12  # tags
_IN_WORLD, _IN_VOXELS = 1, 2  # types


def knows(file: Path) -> bool:
    """Whether it begins as they do."""
    return begins(file) == _VERSION


def load(file: Path, grids: Grids) -> Transform:
    """See `Format.read`."""
    with opened(file) as stream:
        if stream.take(4) != _VERSION:
            raise ValueError("another version")
        *size, spacing = (stream.number() for _ in range(4))
        stream.take(4)  # an exponent of the registration
        if min(*size, spacing) < 1:
            raise ValueError(f"{size} nodes, {spacing} voxels apart")
        found, valid = [], []
        for _ in range(size[0]):  # a plane at a time, for the memory
            nodes = np.frombuffer(stream.take(_NODE.itemsize * size[1] * size[2]), _NODE)
            found.append(nodes["place"].astype(np.float32))
            valid.append(nodes["first"].any(1) | nodes["place"].any(1))
        kind, own = _told(stream, int(np.prod(size)))
    if kind not in (_IN_WORLD, _IN_VOXELS):
        raise ValueError(f"places of type {kind}")
    fixed, moving = known(own, grids)
    places = torch.from_numpy(np.stack(found).reshape(*size, 3)).movedim(-1, 0)
    affine = fixed.affine @ np.diag([spacing, spacing, spacing, 1])
    vectors = less_places(places, affine, moving.affine if kind == _IN_VOXELS else None)
    return Displacement.of_world(_filled(vectors, np.stack(valid).reshape(size)), affine)


def _told(stream: Stream, nodes: int) -> tuple[int, Grids]:
    """The type, and the grids of atlas and image; what else is told follows these."""
    kind, grids = _IN_VOXELS, Grids()
    while (tag := stream.tag()) in (_GEOMETRY, _TYPE, _LABELS):
        if tag == _GEOMETRY:
            image, atlas = stream.grid(), stream.grid()
            grids = Grids(atlas, image)
        elif tag == _TYPE:
            kind = stream.number()
        else:
            stream.take(4 * nodes)
    return kind, grids


def _filled(vectors: torch.Tensor, valid: np.ndarray) -> torch.Tensor:
    """(3, D, H, W), where they are not valid (D, H, W) as at the nearest that is."""
    if valid.all():
        return vectors
    if not valid.any():
        raise ValueError("no node that is valid")
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    one, two, three = torch.from_numpy(nearest).long()
    return vectors[:, one, two, three]
