"""Vectors and tensors that turn with what they are in."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_apply import run
from test_world import oblique, smooth

from l2rfast import InputError
from l2rfast.io import write_affine
from l2rfast.reorientation import TENSORS, VECTORS, reorient
from l2rfast.world import Affine, Displacement, Transform, compose

FIXED, MOVING = oblique((5, 6, 4), 0), oblique((6, 5, 7), 1)
TURN = Rotation.from_rotvec([0.3, -0.5, 0.7]).as_matrix()
PLACES = {"itk": "xx xy yy xz yz zz", "fsl": "xx xy xz yy yz zz", "mrtrix": "xx yy zz xy xz yz"}


def turning(linear: np.ndarray = TURN) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, (1, 2, -3)
    return Affine(matrix)


def axes(system: str, affine: np.ndarray) -> np.ndarray:
    """Unit vectors of a system in RAS, by hand."""
    if system in ("ras", "lps"):
        return np.diag({"ras": [1.0, 1, 1], "lps": [-1.0, -1, 1]}[system])
    unit = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(0))
    if system == "fsl" and np.linalg.det(affine[:3, :3]) > 0:
        unit[:, 0] *= -1
    return unit


def everywhere(numbers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(numbers)[:, None, None, None].expand(-1, *FIXED.shape).contiguous()


@pytest.mark.parametrize("system", VECTORS)
def test_a_turned_head_has_turned_vectors(system: str) -> None:
    """Places of fixed turn to moving by TURN: what points along v there points along TURN^T v here."""
    vector = np.array([1.0, -2.0, 0.5])
    stored = axes(system, MOVING.affine).T @ vector
    found = reorient(everywhere(stored), turning(), FIXED, MOVING, system)
    expected = axes(system, FIXED.affine).T @ TURN.T @ vector
    np.testing.assert_allclose(found, everywhere(expected), atol=1e-6)


@pytest.mark.parametrize("order", TENSORS)
def test_a_turned_head_has_turned_tensors(order: str) -> None:
    system = {"itk": "lps", "fsl": "fsl", "mrtrix": "ras"}[order]
    tensor = np.array([[3.0, 0.4, -0.2], [0.4, 1.5, 0.3], [-0.2, 0.3, 0.7]])
    at = np.array(["xyz".index(letter) for letter in PLACES[order].replace(" ", "")]).reshape(6, 2).T

    def numbers(matrix: np.ndarray, affine: np.ndarray) -> np.ndarray:
        own = axes(system, affine).T @ matrix @ axes(system, affine)
        listed: np.ndarray = own[tuple(at)]
        return listed

    found = reorient(everywhere(numbers(tensor, MOVING.affine)), turning(), FIXED, MOVING, order)
    np.testing.assert_allclose(found, everywhere(numbers(TURN.T @ tensor @ TURN, FIXED.affine)), atol=1e-6)


def test_sheared_and_stretched_a_direction_keeps_its_length_and_a_tensor_its_eigenvalues() -> None:
    linear = np.array([[1.2, 0.5, 0.0], [0.0, 0.9, -0.3], [0.1, 0.0, 1.1]])
    vector = np.array([1.0, 2.0, -1.0])
    along = np.linalg.solve(linear, vector)
    found = reorient(everywhere(vector), turning(linear), FIXED, MOVING, "ras")
    np.testing.assert_allclose(found, everywhere(along * np.linalg.norm(vector) / np.linalg.norm(along)), atol=1e-6)
    frame = Rotation.from_rotvec([0.2, 0.9, -0.4]).as_matrix()
    tensor = frame @ np.diag([2.0, 1.0, 0.3]) @ frame.T
    stored = tensor[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    turned = reorient(everywhere(stored), turning(linear), FIXED, MOVING, "mrtrix")[:, 2, 3, 1].numpy()
    matrix = turned[[[0, 3, 4], [3, 1, 5], [4, 5, 2]]]
    values, vectors = np.linalg.eigh(matrix)
    np.testing.assert_allclose(values, [0.3, 1.0, 2.0], atol=1e-6)
    first = np.linalg.solve(linear, frame[:, 0])
    np.testing.assert_allclose(abs(vectors[:, 2] @ first) / np.linalg.norm(first), 1, atol=1e-9)
    # The plane of the first two turns as a plane does.
    normal = np.cross(first, np.linalg.solve(linear, frame[:, 1]))
    np.testing.assert_allclose(abs(vectors[:, 0] @ normal) / np.linalg.norm(normal), 1, atol=1e-9)


def test_a_field_turns_them_where_it_bends() -> None:
    grid = oblique((16, 18, 17), 2)
    field: Transform = compose(Displacement(smooth(grid.shape, 0.4), grid.affine), turning())
    vectors = torch.zeros(3, *grid.shape).double()
    vectors[1] = 1
    found = reorient(vectors, field, grid, MOVING, "ras")
    voxel = np.array([7.0, 9, 8])
    place = torch.from_numpy(grid.affine[:3, :3] @ voxel + grid.affine[:3, 3])
    step = torch.from_numpy(grid.affine[:3, :3].T)
    slope = (field(place + step) - field(place - step)).numpy().T / 2 @ np.linalg.inv(grid.affine[:3, :3])
    expected = np.linalg.solve(slope, [0, 1, 0])
    np.testing.assert_allclose(found[:, 7, 9, 8], expected / np.linalg.norm(expected), atol=1e-5)


def test_the_command_turns_what_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vectors = np.zeros((*MOVING.shape, 3), np.float32)
    vectors[..., 0] = 1
    nib.save(nib.Nifti1Image(vectors, MOVING.affine), "v1.nii")
    nib.save(nib.Nifti1Image(np.zeros(FIXED.shape, np.float32), FIXED.affine), "fixed.nii")
    write_affine("turn.txt", turning().array)
    chain = ("--reference=fixed.nii", "--transform=turn.txt")
    assert run("apply", "v1.nii", *chain, "--vectors=ras", "--out=turned.nii").stderr == ""
    found = np.asarray(nib.load("turned.nii").dataobj)
    inside = np.abs(found).sum(-1) > 0
    assert inside.mean() > 0.1
    np.testing.assert_allclose(found[inside], np.tile(TURN[0], (inside.sum(), 1)), atol=1e-5)
    for options, said in (
        (("--tensors=fsl",), "--tensors: expected an image of 6 volumes of real numbers, got (3,)"),
        (("--vectors=itk",), "--vectors: expected one of ras, lps, voxels, fsl, got 'itk'"),
        (("--vectors=ras", "--tensors=fsl"), "--vectors, --tensors: expected one of the two"),
    ):
        result = run("apply", "v1.nii", *chain, *options, "--out=no.nii")
        assert (result.exit_code, said in result.stderr) == (2, True)
    stored = nib.Nifti1Image(vectors[:, :, :, None], MOVING.affine)
    stored.header.set_intent(1007)
    nib.save(stored, "itk.nii")
    result = run("apply", "itk.nii", *chain, "--out=as_they_are.nii")
    assert "by its intent, 1007, its volumes are vectors: each is resampled on its own" in result.stderr


def test_an_unknown_convention_is_said() -> None:
    with pytest.raises(InputError, match="vectors: expected one of ras, lps, voxels, fsl, got 'best'"):
        reorient(torch.zeros(3, *FIXED.shape), turning(), FIXED, MOVING, "best")
