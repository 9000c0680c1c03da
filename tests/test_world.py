"""Transforms of the world: points, grids and chains agree, whichever way they are asked."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast import InputError
from l2rfast.world import Affine, Displacement, Field, Grid, Transform, Velocity, compose, within

LPS = np.diag([-1.0, -1.0, 1.0])


def oblique(shape: tuple[int, ...], seed: int) -> Grid:
    """Turned, of unequal voxels, its middle near the origin; every second one mirrored."""
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    turn[:, 0] *= np.sign(np.linalg.det(turn)) * (-1) ** seed
    affine = np.eye(4)
    affine[:3, :3] = turn * generator.uniform(0.8, 1.6, 3)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array((*shape, 1)[:3]) - 1) / 2) + generator.normal(size=3)
    return Grid(shape, affine)


def smooth(shape: tuple[int, ...], voxels: float, seed: int = 0) -> Tensor:
    noise = torch.randn(1, len(shape), *(5 for _ in shape), generator=torch.Generator().manual_seed(seed))
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return F.interpolate(noise, size=shape, mode=mode, align_corners=True) * voxels


def field(seed: int = 0, voxels: float = 1.0) -> Displacement:
    grid = oblique((20, 24, 22), seed)
    return Displacement(smooth(grid.shape, voxels, seed), grid.affine)


def affine(seed: int = 3) -> Affine:
    matrix = np.eye(4)
    generator = np.random.default_rng(seed)
    matrix[:3] += np.hstack([0.1 * generator.normal(size=(3, 3)), generator.normal(size=(3, 1))])
    return Affine(matrix)


def places(grid: Grid) -> Tensor:
    """(M, 3) of all voxels, in RAS millimetres."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij")).reshape(3, -1)
    return torch.from_numpy((grid.affine[:3, :3] @ index).T + grid.affine[:3, 3])


CHAINS = {
    "affine": lambda: affine(),
    "field": lambda: field(),
    "velocity": lambda: Velocity(field().disp, field().affine),
    "field, affine": lambda: compose(field(), affine()),
    "affine, field, affine, field": lambda: compose(affine(), field(), affine(4), field(1)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_itk_takes_points_to_the_same_places(name: str) -> None:
    ours, at = CHAINS[name](), places(oblique((4, 5, 6), 7)) / 2  # within all fields: beyond them ITK has none
    theirs = itk(ours)
    reached = np.array([LPS @ theirs.TransformPoint(LPS @ point) for point in at.numpy()])
    np.testing.assert_allclose(ours(at), reached, atol=1e-4)


def itk(transform: Transform) -> sitk.Transform:
    if transform.matrix is not None:
        linear = LPS @ transform.matrix[:3, :3] @ LPS
        return sitk.AffineTransform(linear.ravel().tolist(), (LPS @ transform.matrix[:3, 3]).tolist())
    if isinstance(transform, Field):
        vectors = np.einsum("ij,j...->...i", LPS, transform.vectors.double().numpy())
        image = sitk.GetImageFromArray(np.ascontiguousarray(vectors.transpose(2, 1, 0, 3)), isVector=True)
        linear = LPS @ transform.affine[:3, :3]
        spacing = np.linalg.norm(linear, axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((linear / spacing).ravel().tolist())
        image.SetOrigin((LPS @ transform.affine[:3, 3]).tolist())
        return sitk.DisplacementFieldTransform(image)
    chain = sitk.CompositeTransform(3)
    for part in reversed(transform.parts):  # type: ignore[attr-defined]
        chain.AddTransform(itk(part))
    return chain


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("back", [False, True])
def test_on_a_grid_it_is_what_it_is_at_points(name: str, back: bool) -> None:
    transform, grid = CHAINS[name](), oblique((9, 8, 10), 5)
    transform = transform.inverse if back else transform
    at = places(grid)
    np.testing.assert_allclose(transform.on(grid)(at), transform(at), atol=2e-3 if back else 1e-4)


@pytest.mark.parametrize("name", CHAINS)
def test_points_come_back(name: str) -> None:
    transform, at = CHAINS[name](), places(oblique((6, 7, 5), 5))
    np.testing.assert_allclose(transform.inverse(transform(at)), at, atol=1e-3)
    np.testing.assert_allclose(transform(transform.inverse(at)), at, atol=1e-3)


def test_a_velocity_is_integrated() -> None:
    """Once around in so many steps: a turn by as many degrees."""
    size, degrees = (21, 21, 5), 20.0
    x, y, _ = torch.meshgrid(*[torch.arange(float(n)) - (n - 1) / 2 for n in size], indexing="ij")
    turning = torch.stack([-y, x, torch.zeros_like(x)])[None] * np.radians(degrees)
    header = np.diag([2.0, 2.0, 3.0, 1.0])
    reached = Velocity(turning, header)(torch.tensor([[28.0, 20.0, 6.0]], dtype=torch.float64))
    angle = np.radians(degrees)
    np.testing.assert_allclose(reached[0], [20 + 8 * np.cos(angle), 20 + 8 * np.sin(angle), 6], atol=0.01)


def test_beyond_a_field_it_goes_on_as_at_its_border_and_that_is_told() -> None:
    disp = torch.zeros(1, 3, 4, 4, 4)
    disp[:, 0] = torch.arange(4.0)[:, None, None]
    transform = Displacement(disp, np.eye(4))
    at = torch.tensor([[9.0, 1, 1], [-5, 1, 1]], dtype=torch.float64)
    np.testing.assert_allclose(transform(at), [[12, 1, 1], [-5, 1, 1]])
    inside = within(compose(Affine(np.eye(4)), transform), Grid((8, 2, 2), np.eye(4)))
    assert inside[:, 0, 0].tolist() == [True] * 5 + [False] * 3


def test_neighbouring_matrices_are_one_and_nothing_is_the_identity() -> None:
    chain = compose(affine(1), affine(2), affine(1).inverse)
    np.testing.assert_allclose(
        chain.matrix, np.linalg.inv(affine(1).array) @ affine(2).array @ affine(1).array, atol=1e-12
    )
    assert compose().matrix.tolist() == np.eye(4).tolist()  # type: ignore[union-attr]
    only = field()
    assert compose(Affine(np.eye(4)), only) is only
    assert only.inverse.inverse is only


def test_a_slice_lies_in_a_world_of_three_axes() -> None:
    grid = oblique((12, 14), 2)
    transform, at = Displacement(smooth(grid.shape, 0.4), grid.affine), places(grid)
    moved = torch.from_numpy(np.linalg.solve(grid.affine[:3, :3], (transform(at) - at).numpy().T))
    np.testing.assert_allclose(moved[:2].view(2, 12, 14), smooth(grid.shape, 0.4)[0], atol=1e-5)
    np.testing.assert_allclose(moved[2], 0, atol=1e-6)
    np.testing.assert_allclose(transform.inverse(transform(at)), at, atol=1e-3)


@pytest.mark.parametrize(
    "array", [np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 1, 1, 2])], ids=["shape", "nan", "last row"]
)
def test_what_is_no_map_is_said(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="array: expected a finite"):
        Affine(array)


def test_a_flat_map_has_no_inverse() -> None:
    with pytest.raises(InputError, match="expected a matrix that has an inverse"):
        _ = Affine(np.diag([1.0, 1, 0, 1])).inverse


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_field_that_is_not_finite_has_no_inverse(wrong: float) -> None:
    disp = torch.zeros(1, 3, 6, 5, 4)
    disp[0, 1, 2, 2, 2] = wrong
    field = Displacement(disp, np.eye(4))
    for way in (lambda: field.inverse(torch.zeros(1, 3, dtype=torch.float64)), lambda: field.inverse.on(field.grid)):
        with pytest.raises(InputError, match=r"finite everywhere, .* not at 1 of 120 voxels"):
            way()


def test_a_line_of_voxels_lies_in_a_world_of_three_axes() -> None:
    assert Grid((8,), np.eye(4)).size == (8, 1, 1)
    assert Affine(np.eye(4)).on(Grid((8,), np.eye(4))).disp.shape == (1, 3, 8, 1, 1)
