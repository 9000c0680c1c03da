"""Volumes and fields, against what nibabel and SimpleITK read and compute on their own."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from l2rfast import InputError, io, warp
from l2rfast.io import series

SHAPE = (9, 8, 7)


def oblique(spacing: tuple[float, ...] = (1.5, 0.9, 2.2), order: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """A rotated grid whose axes are permuted, and mirrored where the permutation is even."""
    a, b = 0.4, -0.7
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ tilt)[:, list(order)] * np.array(spacing) * [1, 1, -1]
    affine[:3, 3] = [-20, 31, 7.5]
    return affine


AFFINES = [oblique(), oblique(order=(2, 0, 1)), oblique(order=(1, 0, 2)), np.diag([-2.0, -2, 3, 1])]


def image(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
    nifti = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for name, value in fields.items():
        nifti.header[name] = value
    nib.save(nifti, path)
    return path


def load(path: Path) -> Any:
    return nib.load(path)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_reads_every_dtype_in_the_order_of_the_file(tmp_path: Path, dtype: str, suffix: str) -> None:
    array = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 251).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    nib.save(nib.Nifti1Image(array, AFFINES[1], header), tmp_path / f"a{suffix}")
    volume = io.read_image(tmp_path / f"a{suffix}")
    assert volume.data.dtype == torch.float32
    assert volume.data.is_contiguous()
    np.testing.assert_array_equal(volume.data.numpy(), array.astype(np.float32))
    np.testing.assert_allclose(volume.affine, AFFINES[1], atol=1e-5)
    np.testing.assert_allclose(volume.spacing, (1.5, 0.9, 2.2), atol=1e-5)


def test_applies_slope_and_intercept(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = tmp_path / "a.nii"
    save(path, array)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([0.5, -7], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(raw)
    np.testing.assert_array_equal(io.read_image(path).data.numpy(), array * np.float32(0.5) - 7)


def test_drops_trailing_axes_of_length_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", image((*SHAPE, 1, 1)).numpy())
    assert io.read_image(path).data.shape == SHAPE


def bad_files(folder: Path) -> dict[str, str]:
    """File name -> what the message must say."""
    good = save(folder / "good.nii.gz", image().numpy()).read_bytes()
    (folder / "cut.nii.gz").write_bytes(good[: len(good) // 2])
    (folder / "cut_header.nii.gz").write_bytes(good[:60])
    (folder / "cut.nii").write_bytes(gzip.decompress(good)[:1000])
    (folder / "damaged.nii.gz").write_bytes(good[:200] + b"damaged" + good[207:])
    (folder / "text.nii.gz").write_text("not an image\n" * 50)
    (folder / "text.nii").write_text("not an image\n" * 50)
    (folder / "empty.nii.gz").touch()
    (folder / "folder.nii.gz").mkdir()
    save(folder / "4d.nii.gz", image((5, 4, 3, 2)).numpy())
    save(folder / "2d.nii.gz", image((5, 4)).numpy())
    save(folder / "slice.nii.gz", image((5, 4, 1)).numpy())
    save(folder / "complex.nii.gz", image().numpy().astype(np.complex64))
    save(folder / "colour.nii.gz", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    save(folder / "constant.nii.gz", np.full(SHAPE, 7.0))
    hole = image().numpy()
    hole[1, 2, 3] = np.nan
    save(folder / "nan.nii.gz", hole)
    save(folder / "huge.nii.gz", np.where(np.isnan(hole), 1e300, 0.0))
    flat = np.eye(4)
    flat[:3, 2] = 0.3 * flat[:3, 0] + 0.7 * flat[:3, 1]
    save(folder / "flat.nii.gz", image().numpy(), flat)
    unreadable = "empty, damaged or of another kind"
    return {
        **dict.fromkeys(("cut.nii.gz", "cut_header.nii.gz", "cut.nii", "damaged.nii.gz"), unreadable),
        **dict.fromkeys(("text.nii.gz", "text.nii", "empty.nii.gz", "folder.nii.gz"), unreadable),
        "missing.nii.gz": "there is no such file",
        "4d.nii.gz": "expected a 3-D image, got shape (5, 4, 3, 2)",
        "2d.nii.gz": "expected a 3-D image, got shape (5, 4)",
        "slice.nii.gz": "expected a 3-D image, got shape (5, 4, 1)",
        "complex.nii.gz": "up to 64 bits, got complex64: take its magnitude",
        "colour.nii.gz": "colours: take one channel",
        "constant.nii.gz": "every voxel has the value 7",
        "nan.nii.gz": "1 of 504 voxels are NaN or infinite in float32; where NaN stands for what is not there, "
        "register takes it so (--nan-outside, nan_outside=True)",
        "huge.nii.gz": "NaN or infinite",
        "flat.nii.gz": "three independent axes",
    }


def test_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises(InputError) as caught:
            io.as_volume("moving", tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"moving ({tmp_path / name}): ")
        assert reason in message
        assert "\n" not in message


def test_takes_an_image_from_wherever_it_comes(tmp_path: Path) -> None:
    data, affine = image(), oblique()
    path = save(tmp_path / "a.nii.gz", data.numpy(), affine)
    known: list[Any] = [path, str(path), load(path), io.Volume(data, affine)]
    for value in known:
        volume = io.as_volume("fixed", value)
        torch.testing.assert_close(volume.data, data, rtol=0, atol=0)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    frozen = data.numpy().copy()
    frozen.setflags(write=False)
    bare: list[Any] = [data, data[None, None].double(), data.numpy().T.copy().T, frozen]
    for value in bare:
        volume = io.as_volume("fixed", value)
        torch.testing.assert_close(volume.data, data, rtol=0, atol=0)
        np.testing.assert_array_equal(volume.affine, np.eye(4))
    for wrong in (3, data[None], data.to(torch.complex64), None):
        with pytest.raises(InputError, match=r"^fixed: expected"):
            io.as_volume("fixed", wrong)


def test_reads_labels_in_the_smallest_dtype(tmp_path: Path) -> None:
    like = io.Volume(image(), oblique())
    for top, dtype in (
        (255, torch.uint8),
        (256, torch.int16),
        (32768, torch.int32),
        (2**31 - 1, torch.int32),
    ):
        for stored in ("f8", "u4"):
            array = np.zeros(SHAPE, stored)
            array[0, 0, 0], array[1, 2, 3] = 3, top
            path = save(tmp_path / "labels.nii.gz", array, like.affine)
            labels = io.read_labels(path, like)
            assert labels.data.dtype == dtype
            np.testing.assert_array_equal(labels.data.numpy(), array.astype(np.int64))
    torch.testing.assert_close(io.read_labels(torch.ones(SHAPE), like).data, torch.ones(SHAPE).byte())


def test_a_stack_of_masks_is_a_label_map_with_later_ones_on_top(tmp_path: Path) -> None:
    like = io.Volume(image(), oblique())
    stack = np.zeros((*SHAPE, 3), "f4")
    stack[2:6, 2:6, 2:6, 0] = 1
    stack[3, 3, 3:5, 2] = 2  # anything but 0
    wanted = np.zeros(SHAPE)
    wanted[2:6, 2:6, 2:6], wanted[3, 3, 3:5] = 1, 3
    labels = io.read_labels(save(tmp_path / "stack.nii.gz", stack, like.affine), like)
    np.testing.assert_array_equal(labels.data.numpy(), wanted)
    assert labels.data.dtype == torch.uint8
    single = io.read_labels(save(tmp_path / "single.nii.gz", 7 * stack[..., :1], like.affine), like)
    assert single.data.unique().tolist() == [0, 7]
    with pytest.raises(InputError, match=r"expected a 3-D image, got shape \(8, 8, 7, 3\)"):
        io.read_labels(save(tmp_path / "stack.nii.gz", stack[1:], like.affine), like)


def test_rejects_what_is_not_a_label_map_of_the_image(tmp_path: Path) -> None:
    like = io.Volume(image(), oblique())
    good = np.ones(SHAPE)
    cases = {"whole numbers": [good - 2, good + 0.5, good * 2.0**31, good * np.nan, good * np.inf]}
    cases["shape of its image, (9, 8, 7), got (9, 8, 6)"] = [good[:, :, :6]]
    for reason, arrays in cases.items():
        for array in arrays:
            save(tmp_path / "labels.nii.gz", array, like.affine)
            with pytest.raises(InputError) as caught:
                io.read_labels(tmp_path / "labels.nii.gz", like, "moving_labels")
            assert str(caught.value).startswith("moving_labels (")
            assert reason in str(caught.value)
    moved = like.affine.copy()
    moved[0, 3] += 0.2  # of 0.9 mm
    save(tmp_path / "labels.nii.gz", good, moved)
    with pytest.raises(InputError, match="affine of its image"):
        io.read_labels(tmp_path / "labels.nii.gz", like)


@pytest.mark.parametrize("affine", AFFINES)
def test_simpleitk_sees_the_same_geometry(tmp_path: Path, affine: np.ndarray) -> None:
    data = image()
    io.write_image(tmp_path / "a.nii.gz", io.Volume(data, affine))
    seen = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(seen).T, data.numpy())
    for voxel in ((0, 0, 0), (8, 0, 0), (0, 7, 0), (0, 0, 6), (5, 3, 2)):
        lps = (affine @ [*voxel, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(seen.TransformIndexToPhysicalPoint(voxel), lps, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_is_written_is_read(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    affine = oblique()
    affine[0, 1] += 0.5  # sheared: only the sform holds it
    volume = io.Volume((image() * 100).to(dtype), affine)
    io.write_image(tmp_path / name, volume)
    stored = load(tmp_path / name)
    assert stored.get_data_dtype() == volume.data.numpy().dtype
    assert (int(stored.header["sform_code"]), int(stored.header["qform_code"])) == (1, 0)
    np.testing.assert_array_equal(np.asanyarray(stored.dataobj), volume.data.numpy())
    np.testing.assert_allclose(stored.affine, affine, atol=1e-5)


def test_write_rejects_other_dtypes_and_suffixes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int64"):
        io.write_image(tmp_path / "a.nii", io.Volume(torch.ones(SHAPE, dtype=torch.int64), np.eye(4)))
    with pytest.raises(InputError, match=r"\.nii"):
        io.write_image(tmp_path / "a.png", io.Volume(image(), np.eye(4)))
    with pytest.raises(InputError, match=r"\[1,\] 3, D, H, W"):
        io.write_displacement(tmp_path / "a.nii", torch.zeros(2, *SHAPE), np.eye(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fixed_affine", AFFINES)
def test_simpleitk_applies_the_field_and_gets_the_same_image(tmp_path: Path, fixed_affine: np.ndarray) -> None:
    moving_shape = (11, 10, 12)
    moving_affine = fixed_affine @ np.diag([0.8, 0.9, 0.7, 1])
    moving_affine[:3, :3] = moving_affine[:3, [1, 2, 0]]
    i, j, k = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    disp = torch.stack([torch.sin(j / 3), 0.3 * k - 0.8, torch.cos(i / 2 + j / 4)])[None]
    moving = io.Volume(image(moving_shape, seed=1), moving_affine)
    io.write_image(tmp_path / "fixed.nii.gz", io.Volume(image(), fixed_affine))
    io.write_image(tmp_path / "moving.nii.gz", moving)
    io.write_displacement(tmp_path / "disp.nii.gz", disp, fixed_affine)

    # ITK: physical points, its own reading of all three files.
    vectors = sitk.Cast(sitk.ReadImage(str(tmp_path / "disp.nii.gz")), sitk.sitkVectorFloat64)
    fixed_seen, moving_seen = (sitk.ReadImage(str(tmp_path / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    transform = sitk.DisplacementFieldTransform(vectors)
    resampled = sitk.Resample(moving_seen, fixed_seen, transform, sitk.sitkLinear, -1.0)
    expected = sitk.GetArrayFromImage(resampled).T

    # l2rfast: voxels. The position in the moving image, less the voxel it belongs to, is a displacement.
    matrix = torch.from_numpy(io.voxel_to_voxel(fixed_affine, moving_affine)).float()
    grid = torch.stack([i, j, k])
    position = torch.einsum("ab,bijk->aijk", matrix[:, :3], grid + disp[0]) + matrix[:, 3, None, None, None]
    warped = warp(moving.data[None, None], (position - grid)[None])[0, 0].numpy()

    inside = expected >= 0
    assert inside.sum() > 50
    np.testing.assert_allclose(warped[inside], expected[inside], atol=1e-4)


@pytest.mark.parametrize("affine", [*AFFINES, AFFINES[0] + np.eye(4, k=1) * 0.4])
def test_a_displacement_field_survives_the_file(tmp_path: Path, affine: np.ndarray) -> None:
    disp = torch.randn((1, 3, *SHAPE), generator=torch.Generator().manual_seed(0))
    io.write_displacement(tmp_path / "disp.nii.gz", disp, affine)
    stored = load(tmp_path / "disp.nii.gz")
    assert stored.shape == (*SHAPE, 1, 3)
    assert stored.header["intent_code"] == 1007
    back, back_affine = io.read_displacement(tmp_path / "disp.nii.gz")
    torch.testing.assert_close(back, disp, rtol=0, atol=1e-5)
    np.testing.assert_allclose(back_affine, affine, atol=1e-5)


def test_read_displacement_rejects_other_images(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", image().numpy())
    save(tmp_path / "plain.nii.gz", image((*SHAPE, 3)).numpy())  # in voxels or in millimetres?
    save(tmp_path / "other.nii.gz", image((*SHAPE, 1, 3)).numpy(), intent_code=2006)
    for name in ("image.nii.gz", "plain.nii.gz", "other.nii.gz"):
        with pytest.raises(InputError, match=f"{name}: expected a displacement field"):
            io.read_displacement(tmp_path / name)


def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    """Before memory is taken for it."""
    for suffix in (".nii", ".nii.gz"):
        path = tmp_path / f"lie{suffix}"
        io.write_image(path, io.Volume(torch.zeros(4, 5, 6), np.eye(4)))
        data = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
        data[42:48] = np.array([32000] * 3, "<i2").tobytes()  # dim
        path.write_bytes(gzip.compress(bytes(data)) if suffix == ".nii.gz" else bytes(data))
        with pytest.raises(InputError, match="the file is empty, damaged or of another kind"):
            next(series.open_series("image", path).volumes())
