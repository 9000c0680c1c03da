"""Displacements as arrays: what is said of them by indices alone, by SciPy as Learn2Reg's evaluation has it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from grids import oblique
from nibabel.affines import apply_affine
from numpy.lib import format as npy
from scipy.ndimage import zoom

from l2rfast import InputError
from l2rfast.io import read_transform, write_transform
from l2rfast.io.transforms.npy import shapes
from l2rfast.world import Affine, Displacement, Grid

SIZE = (10, 8, 12)


FIXED = Grid(SIZE, oblique((2.0, 2.5, 3.0), (10, -20, 5), True, 1))
MOVING = Grid(SIZE, oblique((1.5, 2.0, 2.2), (3, 4, 5), False, 2))


def voxels(size: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))


def smooth(size: tuple[int, ...] = SIZE) -> np.ndarray:
    """(3, X, Y, Z) in voxels."""
    i, j, k = voxels(size) / 3.0
    return np.stack([2 * np.sin(i + j), 2 * np.cos(j - k), 3 * np.sin(k)]).astype(np.float32)


def store(path: Path, array: np.ndarray) -> Path:
    if path.name.endswith(".npz"):
        np.savez_compressed(path, array)
    elif path.name.endswith(".npy"):
        np.save(path, array)
    else:
        nib.save(nib.Nifti1Image(array, FIXED.affine), path)
    return path


def lead(file: Path, expected: np.ndarray, atol: float = 2e-5, moving: Grid | None = None) -> None:
    """By indices it leads where a (3, X, Y, Z) array says."""
    found = read_transform(file, format="arrays", fixed=FIXED, moving=moving)
    places = torch.from_numpy(apply_affine(FIXED.affine, voxels().reshape(3, -1).T))
    indices = (voxels() + expected).reshape(3, -1).T
    np.testing.assert_allclose(found(places), apply_affine((moving or FIXED).affine, indices), rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.nii.gz"])
@pytest.mark.parametrize("last", [False, True])
def test_at_every_voxel_of_fixed(name: str, last: bool, tmp_path: Path) -> None:
    lead(store(tmp_path / name, np.moveaxis(smooth(), 0, -1) if last else smooth()), smooth())
    if not last and not name.startswith("a.nii"):
        lead(store(tmp_path / name, smooth()[None].astype(np.float64, order="F")), smooth())


def test_moving_is_where_its_own_voxels_are(tmp_path: Path) -> None:
    file = store(tmp_path / "a.npz", smooth())
    lead(file, smooth(), moving=MOVING)
    with pytest.raises(InputError, match=r"moving: expected as many voxels as of fixed.*got \(9, 8, 7\)"):
        read_transform(file, fixed=FIXED, moving=Grid((9, 8, 7), MOVING.affine))
    with pytest.raises(InputError, match="fixed: expected the fixed image"):
        read_transform(file)


def test_half_the_size_as_learn2reg_evaluates_it(tmp_path: Path) -> None:
    half = smooth((5, 4, 6)).astype(np.float16)
    lead(store(tmp_path / "a.npz", half), np.stack([zoom(each.astype("float32"), 2, order=2) for each in half]))


@pytest.mark.parametrize("moving", [None, MOVING])
def test_what_is_written_learn2reg_evaluates(moving: Grid | None, tmp_path: Path) -> None:
    # Linear in the indices, which the enlargement keeps to the accuracy of float16.
    by_index = np.eye(4)
    by_index[:3] += 0.03 * np.random.default_rng(0).normal(size=(3, 4))
    world = (moving or FIXED).affine @ by_index @ np.linalg.inv(FIXED.affine)
    write_transform(tmp_path / "a.npz", Affine(world), format="arrays", fixed=FIXED, moving=moving)
    with np.load(tmp_path / "a.npz") as stored:
        half = stored["arr_0"]
    assert half.dtype == np.float16
    assert half.shape == (3, 5, 4, 6)
    field = np.stack([zoom(each.astype("float32"), 2, order=2) for each in half])
    expected = apply_affine(by_index, voxels().reshape(3, -1).T).T.reshape(3, *SIZE) - voxels()
    # zoom goes on beyond the ends of its input as if reflected there, which bends a slope near them.
    inner = (slice(None), slice(4, -4), slice(3, -3), slice(4, -4))
    np.testing.assert_allclose(field[inner], expected[inner], rtol=0, atol=0.01)
    steps = [np.linspace(0, n - 1, n // 2) for n in SIZE]
    there = np.stack(np.meshgrid(*steps, indexing="ij"))
    expected = apply_affine(by_index, there.reshape(3, -1).T).T.reshape(there.shape) - there
    np.testing.assert_allclose(half, expected, rtol=1e-3, atol=1e-3)
    odd = Grid((9, 8, 12), FIXED.affine)
    with pytest.raises(InputError, match=r"three axes of even length.*got \(9, 8, 12\)"):
        write_transform(tmp_path / "b.npz", Affine(world), format="arrays", fixed=odd)


def test_a_slice(tmp_path: Path) -> None:
    fixed = Grid((6, 5), np.diag([2.0, 3.0, 1.0, 1.0]))
    disp = np.random.default_rng(0).normal(size=(2, 6, 5))
    found = read_transform(store(tmp_path / "a.npy", disp), fixed=fixed)
    assert isinstance(found, Displacement)
    np.testing.assert_allclose(found.disp[0, :2, ..., 0], disp, atol=1e-6)
    assert not found.disp[0, 2].any()


def test_what_fits_in_no_way_or_in_two_is_refused(tmp_path: Path) -> None:
    cube = Grid((3, 3, 3), np.eye(4))
    with pytest.raises(InputError, match="got several in shapes"):
        read_transform(store(tmp_path / "a.npy", np.zeros((3, 3, 3, 3))), fixed=cube)
    with pytest.raises(InputError, match=r"got none in shapes \[\(3, 4, 4, 4\)\]"):
        read_transform(store(tmp_path / "a.npy", np.zeros((3, 4, 4, 4))), fixed=cube)
    np.savez(tmp_path / "b.npz", one=smooth(), two=smooth())
    with pytest.raises(InputError, match="got several"):
        read_transform(tmp_path / "b.npz", fixed=FIXED)
    np.savez(tmp_path / "c.npz", image=np.zeros(SIZE), warp=smooth(), name=np.array("text"))
    lead(tmp_path / "c.npz", smooth())


def test_no_memory_is_taken_for_what_a_header_claims(tmp_path: Path) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": (3, 10**6, 10**6, 10**6)}
    with (tmp_path / "a.npy").open("wb") as file:
        npy.write_array_header_1_0(file, header)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as several:
        several.write(tmp_path / "a.npy", "arr_0.npy")
    with pytest.raises(InputError, match="got none in shapes"):
        read_transform(tmp_path / "a.npy", fixed=FIXED)
    with pytest.raises(InputError, match="got none in shapes"):
        read_transform(tmp_path / "a.npz", fixed=FIXED)
    (tmp_path / "a.npy").write_bytes(store(tmp_path / "b.npy", smooth()).read_bytes()[:-4])
    with pytest.raises(InputError, match=r"expected displacements.*11516 bytes of the 11520"):
        read_transform(tmp_path / "a.npy", fixed=FIXED)
    np.save(tmp_path / "b.npy", np.full((3, *SIZE), None), allow_pickle=True)
    with pytest.raises(InputError, match=r"b\.npy.*expected"):
        read_transform(tmp_path / "b.npy", fixed=FIXED)
    whole = store(tmp_path / "c.npz", smooth()).read_bytes()
    for damaged in (whole[:-30], whole[:200] + bytes(200) + whole[400:], b"PK\x03\x04"):
        (tmp_path / "d.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"d\.npz.*expected"):
            read_transform(tmp_path / "d.npz", fixed=FIXED)


def test_an_array_of_python_2_is_read_without_a_remark(tmp_path: Path) -> None:
    """NumPy warns of its long integers; warnings are errors here."""
    np.save(tmp_path / "a.npy", np.diag([1.0, 1, 2, 1]))
    data = (tmp_path / "a.npy").read_bytes()
    assert b"(4, 4), }" in data
    (tmp_path / "a.npy").write_bytes(data.replace(b"(4, 4), }", b"(4L,4L) }"))
    assert shapes(tmp_path / "a.npy") == {"": (4, 4)}
