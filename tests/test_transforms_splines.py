"""Displacements by B-splines of control points, with the edges that tools give them, beside SciPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from l2rfast.io.transforms.spline import Spline
from l2rfast.world import Grid
from l2rfast.world.maps import Map

CONTROL = np.array([[4.0, 1, 0, -9], [-1, 5, 1, 2], [0, -1, 6, -8], [0, 0, 0, 1]])
GRID = Grid((9, 8, 7), np.array([[0.5, 3, 0, -14], [3.5, 0, 1, -3], [0, 1, -4.5, 22], [0, 0, 0, 1]]))
LAST = np.array([6, 5, 4])[:, None, None, None]  # control point


def coefficients() -> Tensor:
    return torch.randn(1, 3, 7, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def around(disp: Tensor | None) -> np.ndarray:
    """(3, D, H, W): where the voxels of the grid, moved, are among the control points."""
    voxels = np.stack(np.meshgrid(*map(np.arange, GRID.size), indexing="ij")).astype(float)
    if disp is not None:
        voxels += disp[0].numpy()
    matrix = np.linalg.solve(CONTROL, GRID.affine)
    return np.tensordot(matrix[:3, :3], voxels, 1) + matrix[:3, 3, None, None, None]


def scipy(places: np.ndarray, beyond: str) -> Tensor:
    """Of control points that go on so far that SciPy's own edge is nowhere near."""
    wide = np.pad(coefficients()[0].numpy(), ((0, 0), *[(20, 20)] * 3), {"replicate": "edge"}.get(beyond, beyond))
    found = [map_coordinates(each, places + 20, order=3, mode="grid-constant", prefilter=False) for each in wide]
    return torch.from_numpy(np.stack(found))[None]


@pytest.mark.parametrize("beyond", ["replicate", "constant"])
@pytest.mark.parametrize("moved", [False, True])
def test_control_points_go_on(moved: bool, beyond: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one as in NiftyReg, or some of 0 as in FSL, on a grid by a few planes at a time and at points."""
    monkeypatch.setattr("l2rfast.io.transforms.spline._TOGETHER", 2 * 8 * 7)
    disp = torch.randn(1, 3, *GRID.size, dtype=torch.float64) if moved else None
    places = around(disp)
    outside = (places < 0) | (places > LAST)
    assert 0.1 < outside.any(0).mean() < 0.9
    assert abs(places).max() < 15
    spline, expected = Spline(coefficients(), CONTROL, beyond), scipy(places, beyond)
    found = spline.vectors(Map(GRID.size, GRID.affine, disp))
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-6)
    points = torch.from_numpy((CONTROL[:3, :3] @ places.reshape(3, -1)).T + CONTROL[:3, 3])
    torch.testing.assert_close(spline(points) - points, expected[0].flatten(1).T, rtol=0, atol=1e-12)


def test_where_control_points_are_missing_points_stay() -> None:
    """As ITK has it, on a grid and at points, also at those on the very last plane."""
    spline, places = Spline(coefficients(), CONTROL, "none"), around(None)
    inside = ((places >= 1) & (places <= LAST - 1)).all(0)
    assert 0.05 < inside.mean() < 0.95
    expected = scipy(places, "constant") * torch.from_numpy(inside)
    torch.testing.assert_close(spline.on(GRID).vectors[None].double(), expected, rtol=0, atol=1e-5)
    points = torch.from_numpy((CONTROL[:3, :3] @ places.reshape(3, -1)).T + CONTROL[:3, 3])
    steps = expected.flatten(2)[0].T
    torch.testing.assert_close(spline(points) - points, steps, rtol=0, atol=1e-12)
    assert spline(points[:0]).shape == (0, 3)
    corners = torch.from_numpy(CONTROL @ [[1, 5, 5], [1, 4, 4], [1, 3, 3.001], [1, 1, 1]]).T[:, :3]
    assert (spline(corners) != corners).any(1).tolist() == [True, True, False]
