"""The inverse of maps that turn by much, or lead far beyond the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

import l2rfast
from l2rfast.errors import InputWarning
from l2rfast.io import Volume, write_displacement
from l2rfast.methods.method import Found, Method
from l2rfast.methods.registration import registered
from l2rfast.methods.stages import Stages
from l2rfast.world.inverse import inverted


def places(size: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(float(n)) for n in size], indexing="ij"))


def turn(size: tuple[int, ...], degrees: float, by: float = 0.0, bump: float = 0.0) -> torch.Tensor:
    """The displacement of a turn about the middle in the plane of the first two axes, and a shift along the first."""
    angle, ndim, grid = np.radians(degrees), len(size), places(size)
    linear = np.eye(ndim)
    linear[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ends = np.array(size).reshape(-1, *[1] * ndim) - 1
    disp = np.tensordot(linear - np.eye(ndim), grid - ends / 2, 1) + bump * np.sin(np.pi * grid / ends).prod(0)
    disp[0] += by
    return torch.from_numpy(disp)[None].float()


@pytest.mark.parametrize("size", [(24, 20), (20, 16, 12)])
@pytest.mark.parametrize("degrees", [5, 60, 90, 150, 180, -90])
def test_a_turn_is_turned_back(size: tuple[int, ...], degrees: float) -> None:
    """Wherever that comes from the grid."""
    back = turn(size, -degrees)
    from_grid = places(size) + back[0].numpy()
    inside = ((from_grid >= 0) & (from_grid <= np.array(size).reshape(-1, *[1] * len(size)) - 1)).all(0)
    found = inverted(turn(size, degrees))
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[0].numpy()[:, inside], back[0].numpy()[:, inside], atol=1e-3)


def test_a_mirror_is_its_own_inverse() -> None:
    """As between grids of which one stores an axis the other way."""
    disp = torch.zeros(1, 2, 12, 10)
    disp[0, 0] = torch.from_numpy(11 - 2 * places((12, 10))[0])
    np.testing.assert_allclose(inverted(disp), disp, atol=1e-4)


@pytest.mark.parametrize("degrees", [0, 90, 180])
@pytest.mark.parametrize("by", [0.0, 12.0])
def test_a_turn_that_deforms_leads_back(degrees: float, by: float) -> None:
    """By scipy's interpolation, half of it from beyond the grid."""
    disp = turn((24, 24), degrees, by, bump=2.0)
    back = inverted(disp)[0].double().numpy()
    there = places((24, 24)) + disp[0].double().numpy()
    inside = ((there >= 0) & (there <= 23)).all(0)
    again = there + np.stack([ndi.map_coordinates(back[k], there, order=1, mode="nearest") for k in range(2)])
    assert inside.mean() > 0.4
    np.testing.assert_allclose(again[:, inside], places((24, 24))[:, inside], atol=0.05)


def test_a_field_that_maps_all_to_one_place_has_what_comes_nearest() -> None:
    assert inverted(torch.from_numpy(5 - places((12, 10)))[None].float()).isfinite().all()


def still(size: tuple[int, ...]) -> Method:
    """A method that adds nothing to where it starts."""
    return Method({}, lambda name, image, mask: image, lambda pair, stages: Found(torch.zeros(1, len(size), *size)))


@pytest.mark.parametrize("degrees", [90, 180])
def test_points_come_back_after_a_field_to_start_from_that_turns(degrees: float, tmp_path: Path) -> None:
    size, affine = (20, 18, 16), np.diag([-2.0, 2.0, 3.0, 1.0])
    image = Volume(torch.rand(size, generator=torch.Generator().manual_seed(0)), affine)
    write_displacement(tmp_path / "turn.nii.gz", turn(size, degrees), affine)
    start = l2rfast.io.read_transform(tmp_path / "turn.nii.gz", name="initial")
    found = registered(still(size), image, image, "auto", None, torch.device("cpu"), Stages(), start)
    points = torch.tensor([[6.0, 8.0, 5.0], [12.0, 9.5, 10.0]])
    there = found.points_in_moving(points)
    np.testing.assert_allclose(there - points, turn(size, degrees)[0][:, [6, 12], [8, 9], [5, 10]].T, atol=1.1)
    np.testing.assert_allclose(found.points_in_fixed(there), points, atol=1e-3)


@pytest.mark.parametrize(("first", "said"), [(0, False), (1, False), (8, True)])
def test_beyond_its_border_a_field_to_start_from_goes_on_as_there(first: int, said: bool, tmp_path: Path) -> None:
    """Without folds, and so that ITK's 0 there is said; not within a voxel, where grids of other voxels end."""
    size = (20, 18, 16)
    image = Volume(torch.rand(size, generator=torch.Generator().manual_seed(0)), np.eye(4))
    disp, header = turn(size, 8, by=2.0), np.eye(4)
    header[0, 3] = first
    write_displacement(tmp_path / "part.nii.gz", disp[:, :, first:], header)
    start = l2rfast.io.read_transform(tmp_path / "part.nii.gz", name="initial")
    arguments = (still(size), image, image, "auto", None, torch.device("cpu"), Stages(), start)
    if said:
        with pytest.warns(InputWarning, match="field covers 65 % of the fixed image, and goes on beyond as at its bor"):
            found = registered(*arguments)
    else:
        found = registered(*arguments)
    np.testing.assert_allclose(found.displacement[:, :, first:], disp[:, :, first:], atol=1e-4)
    np.testing.assert_allclose(found.displacement[:, :, :first], disp[:, :, [first] * first], atol=1e-4)
    assert float(l2rfast.digital_jacobian(found.displacement).min()) > 0
