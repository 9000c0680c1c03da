"""Images from wherever they come: other libraries' tensors, slices, arrays that their owner changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import l2rfast
from l2rfast import InputError, io
from l2rfast.errors import InputWarning

SHAPE = (9, 8, 7)
AFFINE = np.array([[0.0, 1.5, 0, -20], [-2, 0, 0, 31], [0, 0, 3, 7], [0, 0, 0, 1]])


def values(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE), (1, 1, *SHAPE)])
def test_a_tensor_that_knows_its_affine_keeps_it(shape: tuple[int, ...]) -> None:
    monai = pytest.importorskip("monai.data")
    affine = np.stack([AFFINE] * shape[0]) if len(shape) == 5 else AFFINE
    tensor = monai.MetaTensor(torch.from_numpy(values(shape)), affine=torch.from_numpy(affine))
    volume = io.as_volume("fixed", tensor)
    assert type(volume.data) is torch.Tensor
    np.testing.assert_array_equal(volume.data.numpy(), values(shape).reshape(SHAPE))
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.spacing == pytest.approx((2, 1.5, 3))
    labels = monai.MetaTensor(torch.ones(SHAPE), affine=torch.eye(4))
    with pytest.raises(InputError, match="labels: expected the affine of its image"):
        io.read_labels(labels, volume, "labels")


def test_monai_reads_a_file_to_the_same_volume(tmp_path: Path) -> None:
    transforms: Any = pytest.importorskip("monai.transforms")
    nib.save(nib.Nifti1Image(values(), AFFINE), tmp_path / "a.nii")
    known = io.read_image(tmp_path / "a.nii")
    volume = io.as_volume("a", transforms.LoadImage(ensure_channel_first=True)(tmp_path / "a.nii"))
    np.testing.assert_array_equal(volume.data.numpy(), known.data.numpy())
    np.testing.assert_allclose(volume.affine, known.affine)


def test_an_affine_in_lps_is_turned() -> None:
    monai = pytest.importorskip("monai.data")
    tensor = monai.MetaTensor(
        torch.from_numpy(values()), affine=torch.from_numpy(np.diag([-1.0, -1, 1, 1]) @ AFFINE), meta={"space": "LPS"}
    )
    np.testing.assert_allclose(io.as_volume("fixed", tensor).affine, AFFINE)


def test_an_affine_of_another_shape_is_refused() -> None:
    tensor = torch.from_numpy(values())
    tensor.affine = torch.eye(3)  # type: ignore[attr-defined]
    for value in (tensor, io.Volume(torch.from_numpy(values()), np.eye(3))):
        with pytest.raises(InputError, match=r"fixed: expected an affine of shape \(4, 4\), got \(3, 3\)"):
            io.as_volume("fixed", value)


def test_what_the_caller_changes_later_changes_nothing(tmp_path: Path) -> None:
    array = values()
    tensor = torch.from_numpy(values())
    nifti = nib.Nifti1Image(values(), AFFINE)
    path = tmp_path / "a.nii"
    nib.save(nifti, path)
    volumes = [io.as_volume("image", value) for value in (array, tensor, nifti, path)]
    labels = io.read_labels(np.ones(SHAPE, np.uint8), volumes[0])
    array[:], tensor[:] = 0, 0
    np.asanyarray(nifti.dataobj)[:] = 0
    path.write_bytes(bytes(path.stat().st_size))
    for volume in volumes:
        np.testing.assert_array_equal(volume.data.numpy(), values())
    assert labels.data.min() == 1
    moving = np.roll(values((16, 16, 16)), 1)
    fixed = values((16, 16, 16))
    result = l2rfast.register(fixed, moving, preset="fast", init="none")
    fixed[:] = 0
    np.testing.assert_array_equal(result.fixed.data.numpy(), values((16, 16, 16)))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_slice_is_2d_whichever_axis_is_the_short_one(tmp_path: Path, at: int) -> None:
    plane = values((9, 8))
    path = tmp_path / "slice.nii"
    nib.save(nib.Nifti1Image(np.expand_dims(plane, at), AFFINE), path)
    volume = io.as_volume("slice", path, dims=(2, 3))
    np.testing.assert_array_equal(volume.data.numpy(), plane)
    for voxel in ((0, 0), (8, 0), (0, 7), (3, 5)):  # as nibabel has it
        place = nib.affines.apply_affine(AFFINE, np.insert(voxel, at, 0))
        np.testing.assert_allclose(volume.affine @ [*voxel, 0, 1], [*place, 1], atol=1e-5)
    sizes = nib.affines.voxel_sizes(AFFINE)
    assert volume.spacing == pytest.approx(np.delete(sizes, at).tolist())
    with pytest.raises(InputError, match="expected a 3-D image"):
        io.as_volume("slice", path)


def test_slices_along_different_axes_lie_on_each_other(tmp_path: Path) -> None:
    order = [1, 2, 0, 3]
    for name, shape, affine in (("a", (9, 8, 1), AFFINE[:, order]), ("b", (1, 9, 8), AFFINE)):
        nib.save(nib.Nifti1Image(values((9, 8)).reshape(shape), affine), tmp_path / f"{name}.nii")
    a, b = (io.as_volume(n, tmp_path / f"{n}.nii", dims=(2,)) for n in "ab")
    np.testing.assert_allclose(io.voxel_to_voxel(a.affine, b.affine, 2), np.eye(2, 3), atol=1e-5)


@pytest.mark.parametrize("dtype", ["f2", "i8", "u8", "u4", ">i8", ">f8", "?"])
def test_arrays_of_any_dtype(dtype: str) -> None:
    array = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 2).astype(dtype)
    assert io.as_volume("image", array).data.double().mean() == array.astype(float).mean()
    like = io.as_volume("image", values())
    np.testing.assert_array_equal(io.read_labels(array, like).data.numpy(), array.astype("u1"))


def test_other_formats_of_nibabel(tmp_path: Path) -> None:
    nib.save(nib.freesurfer.MGHImage(values(), AFFINE.astype("f4")), tmp_path / "a.mgz")
    nib.save(nib.Nifti1Pair(values(), AFFINE), tmp_path / "b.img")
    nib.save(nib.Nifti2Image(values(), AFFINE), tmp_path / "c.nii")
    for name in ("a.mgz", "b.img", "c.nii"):
        volume = io.read_image(tmp_path / name)
        np.testing.assert_array_equal(volume.data.numpy(), values())
        np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    bare: Any = nib.freesurfer.MGHImage(values(), None)
    np.testing.assert_allclose(io.as_volume("bare", bare).affine, bare.header.get_affine())
    (tmp_path / "d.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(InputError, match=r"d\.nrrd\): expected an NRRD image, but the file is .* of another kind"):
        io.read_image(tmp_path / "d.nrrd")


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(SHAPE, device="meta"), "torch.float32, torch.strided, on meta"),
        (torch.ones(SHAPE).to_sparse(), "torch.float32, torch.sparse_coo, on cpu"),
        (torch.ones(SHAPE).cfloat(), "torch.complex64, torch.strided, on cpu"),
    ],
)
def test_a_tensor_without_a_real_number_for_every_voxel_is_refused(tensor: torch.Tensor, found: str) -> None:
    with pytest.raises(InputError, match=f"fixed: expected .* dense tensor or array, got a tensor of {found}"):
        io.as_volume("fixed", tensor)


def test_a_mask_that_is_not_used_is_said() -> None:
    array = np.ma.masked_less(values(), 0.5)
    with pytest.warns(InputWarning, match="fixed: the mask of its array is not used"):
        np.testing.assert_array_equal(io.as_volume("fixed", array).data.numpy(), values())
    io.as_volume("fixed", np.ma.array(values()))
