"""X5 as nitransforms has it.

The files under golden/x5 are of nitransforms 25.1.0, by ``Affine.to_filename(fmt="X5")``, ``x5.to_filename`` of a dense
field's ``to_x5()`` (deformations, which are places) and ``TransformChain([field, affine]).to_filename``; the places
reached are of their ``map``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from l2rfast import InputError, read_transform, write_transform
from l2rfast.world import Affine, Displacement, Grid, Transform, compose

GOLDEN = Path(__file__).parent / "golden/x5"
PLACE = torch.tensor([[-4.5, 2.4, 5.8]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("affine", [-3.21, 5.35, 2.87]),
        ("deformations", [-3.36, 2.467, 5.419]),
        ("chain", [-1.9493, 5.16325, 2.4356]),
    ],
)
def test_places_go_where_nitransforms_takes_them(name: str, reached: list[float]) -> None:
    np.testing.assert_allclose(read_transform(GOLDEN / f"{name}.x5")(PLACE)[0], reached, atol=1e-5)


def grid() -> Grid:
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = q * (1.0, 1.3, -0.8), (-10, 20, 5)
    return Grid((5, 6, 7), affine)


def parts() -> tuple[Transform, Transform]:
    matrix = np.eye(4)
    matrix[:3] = [[1.1, 0.1, 0, 1.5], [-0.2, 0.9, 0.05, 2], [0.02, 0, 1.2, -4]]
    disp = torch.randn(1, 3, *grid().shape, generator=torch.Generator().manual_seed(0))
    return Displacement(disp, grid().affine), Affine(matrix)


def voxels() -> torch.Tensor:
    affine = grid().affine
    return torch.from_numpy(np.argwhere(np.ones(grid().shape))[::7] @ affine[:3, :3].T + affine[:3, 3])


@pytest.mark.parametrize("transform", [*parts(), compose(*parts()), compose(*reversed(parts()), *parts())])
def test_there_and_back(transform: Transform, tmp_path: Path) -> None:
    write_transform(tmp_path / "a.x5", transform, format="x5")
    np.testing.assert_allclose(read_transform(tmp_path / "a.x5")(voxels()), transform(voxels()), atol=1e-5)


def test_nitransforms_reads_what_is_written(tmp_path: Path) -> None:
    """At voxels: between them it is of order 3."""
    import nitransforms

    field, affine = parts()
    ways: list[tuple[Transform, Callable[..., object]]] = [
        (field, nitransforms.nonlinear.load),
        (affine, nitransforms.linear.load),
        (compose(field, affine), nitransforms.manip.TransformChain.from_filename),
    ]
    for number, (ours, load) in enumerate(ways):
        write_transform(tmp_path / f"{number}.x5", ours, format="x5", fixed=grid())
        theirs = load(tmp_path / f"{number}.x5", fmt="X5")
        found = theirs.map(voxels().numpy())  # type: ignore[attr-defined]
        np.testing.assert_allclose(found, ours(voxels()), atol=1e-4)


def change(file: h5py.File, name: str, value: object) -> None:
    del file[name]
    file[name] = value


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("affine", lambda f: f.attrs.__setitem__("Format", "X6"), "got another HDF5 file"),
        ("affine", lambda f: f["TransformGroup/0"].attrs.__setitem__("ArrayLength", 3), "got 3 linear of matrix"),
        ("affine", lambda f: change(f, "TransformGroup/0/Transform", np.eye(3)), r"finite \(4, 4\) matrix"),
        ("affine", lambda f: change(f, "TransformGroup/0/Transform", "text"), "that is no array of numbers"),
        ("affine", lambda f: f.__delitem__("TransformGroup/0/Transform"), "expected a transform of nitransforms"),
        ("affine", lambda f: f.copy("TransformGroup/0", "TransformGroup/1"), "got 2 transforms in 0 chains"),
        ("chain", lambda f: f.__setitem__("TransformChain/1", "1/0"), "got 2 transforms in 2 chains"),
        ("chain", lambda f: change(f, "TransformChain/0", "0/7"), "expected a transform of nitransforms"),
        (
            "deformations",
            lambda f: f["TransformGroup/0"].attrs.__setitem__("Representation", "coefficients"),
            "got 1 nonlinear of coefficients",
        ),
        (
            "deformations",
            lambda f: change(f, "TransformGroup/0/Domain/Size", [4, 5, 7]),
            r"got a field of shape \(4, 5, 6, 3\) on a grid of \[4, 5, 7\]",
        ),
        ("deformations", lambda f: change(f, "TransformGroup/0/Domain/Mapping", np.eye(4) * np.nan), "got a field"),
        ("deformations", lambda f: change(f, "TransformGroup/0/Domain/Mapping", np.diag([1, 0, 1, 1])), "[Ss]ingular"),
    ],
)
def test_damaged_ones_are_said(name: str, damage: Callable[[h5py.File], None], said: str, tmp_path: Path) -> None:
    (tmp_path / "a.x5").write_bytes((GOLDEN / f"{name}.x5").read_bytes())
    with h5py.File(tmp_path / "a.x5", "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=said):
        read_transform(tmp_path / "a.x5", format="x5")


def test_truncated_and_vast_ones_are_said(tmp_path: Path) -> None:
    (tmp_path / "short.x5").write_bytes((GOLDEN / "deformations.x5").read_bytes()[:4000])
    with pytest.raises(InputError, match=r"short.x5.: expected a transform"):
        read_transform(tmp_path / "short.x5")
    (tmp_path / "vast.x5").write_bytes((GOLDEN / "deformations.x5").read_bytes())
    with h5py.File(tmp_path / "vast.x5", "r+") as file:
        del file["TransformGroup/0/Transform"]
        file.create_dataset("TransformGroup/0/Transform", (2**13, 2**13, 2**13, 3), "f4", chunks=(64, 64, 64, 3))
    with pytest.raises(InputError, match="for which the file is too short"):
        read_transform(tmp_path / "vast.x5")
