"""X5, the HDF5 files of nitransforms (.x5): linear maps, fields and chains of them, as version 25.1 has them.

From places of fixed to places of moving, in RAS millimetres; a chain names its transforms in the order in which a point
goes through them. What is read of the file: ``Format``, the groups ``TransformGroup`` with ``Type``,
``Representation``, ``ArrayLength``, ``Transform`` and ``Domain``, and ``TransformChain``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...world import Affine, Composite, Displacement, Grid, Transform, compose
from ..hdf5 import MAGIC, opened, values_of
from .format import Format, Grids, head, less_places, named

if TYPE_CHECKING:
    import h5py

_SUFFIXES = (".x5",)


def _knows(file: Path) -> bool:
    if not named(file, (*_SUFFIXES, ".h5")) or not head(file).startswith(MAGIC):
        return False
    try:
        with opened(file) as found:
            return bool(found.attrs.get("Format") == "X5")
    except ValueError:
        return False


def _read(file: Path, grids: Grids) -> Transform:
    with opened(file) as found:
        if found.attrs.get("Format") != "X5":
            raise ValueError("another HDF5 file")
        nodes, chains = found["TransformGroup"], found.get("TransformChain", {})
        if len(chains) > 1 or (not chains and len(nodes) != 1):
            raise ValueError(f"{len(nodes)} transforms in {len(chains)} chains, where one chain tells their order")
        names = chains["0"].asstr()[()].split("/") if chains else list(nodes)
        return compose(*(_transform(nodes[name]) for name in names))


def _transform(node: h5py.Group) -> Transform:
    kind, count = str(node.attrs["Type"]), int(node.attrs.get("ArrayLength", 1))
    domain = [values_of(node[f"Domain/{name}"]) for name in ("Size", "Mapping")] if "Domain" in node else None
    return transform_of(
        kind, str(node.attrs.get("Representation", "matrix")), count, values_of(node["Transform"]), domain
    )


def transform_of(
    kind: str, representation: str, count: int, values: np.ndarray, domain: list[np.ndarray] | None
) -> Transform:
    """What one transform of nitransforms does.

    Args:
        kind, representation, count: its ``Type``, ``Representation`` and ``ArrayLength``.
        values: (4, 4), or (D, H, W, 3).
        domain: the size of its grid and the affine; of fields.

    Raises:
        ValueError: it is of a kind that is not known, or does not fit its grid.
        InputError: it is no linear map.
    """
    known = (("linear", "matrix"), ("nonlinear", "displacements"), ("nonlinear", "deformations"))
    if count != 1 or (kind, representation) not in known:
        raise ValueError(f"{count} {kind} of {representation}")
    if kind == "linear":
        return Affine(values)
    size, affine = domain or [np.zeros(0), np.zeros(0)]
    shape, affine = (*np.asarray(size).tolist(), 3), np.asarray(affine, np.float64)
    if values.ndim != 4 or values.shape != shape or affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"a field of shape {values.shape} on a grid of {list(shape[:-1])}")
    vectors = torch.from_numpy(np.moveaxis(values, -1, 0).astype(np.float32))
    return Displacement.of_world(less_places(vectors, affine) if representation == "deformations" else vectors, affine)


def _write(file: Path, transform: Transform, grids: Grids) -> None:
    parts = transform.parts if isinstance(transform, Composite) else (transform,)
    import h5py

    with h5py.File(file, "w") as made:
        made.attrs["Format"], made.attrs["Version"] = "X5", np.uint16(1)
        for number, part in enumerate(parts):
            _write_one(made.create_group(f"TransformGroup/{number}"), part, grids.fixed)
        if len(parts) > 1:
            made["TransformChain/0"] = "/".join(map(str, range(len(parts))))


def _write_one(node: h5py.Group, part: Transform, fixed: Grid | None) -> None:
    if part.matrix is not None:
        kind, values, grid = ("linear", "affine", "matrix"), part.matrix, fixed
    else:
        grid = part.grid
        assert grid is not None  # what is not linear and no chain has one
        vectors = part.on(grid).vectors.float().cpu().numpy()
        kind, values = ("nonlinear", "densefield", "displacements"), np.moveaxis(vectors, 0, -1)
    node.attrs["Type"], node.attrs["SubType"], node.attrs["Representation"] = kind
    node.attrs["ArrayLength"], node.attrs["Metadata"] = 1, json.dumps({"WrittenBy": "l2rfast"})
    node["Transform"], node["DimensionKinds"] = values, np.array(["space"] * 3 + ["vector"], "S")
    if grid is not None:
        domain = node.create_group("Domain")
        domain["Grid"], domain["Size"], domain["Mapping"] = np.uint8(1), np.array(grid.size), grid.affine
        domain.attrs["Coordinates"] = "cartesian"


FORMAT = Format("x5", "a transform of nitransforms (X5)", _knows, _read, _write, _SUFFIXES)
