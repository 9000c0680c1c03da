"""Label maps, masks and landmarks that went through other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import special

from l2rfast import InputError, io
from l2rfast.errors import InputWarning

SHAPE = (9, 8, 7)
LIKE = io.Volume(torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)), np.diag([2.0, 1.5, 3.0, 1.0]))


def labels(top: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, top + 1, SHAPE)
    drawn.flat[:2] = 0, top
    return drawn


def save(path: Path, array: np.ndarray, affine: np.ndarray = LIKE.affine, header: Any = None) -> Path:
    nib.save(nib.Nifti1Image(array, affine, header), path)
    return path


@pytest.mark.parametrize(("dtype", "top"), [("u1", 5), ("u1", 35), ("i2", 2035), ("u1", 254)])
def test_labels_that_nibabel_scaled_are_the_nearest_whole_numbers(tmp_path: Path, dtype: str, top: int) -> None:
    wanted = labels(top)
    header = nib.Nifti1Image(wanted.astype(dtype), LIKE.affine).header
    path = save(tmp_path / "scaled.nii", wanted.astype(float), header=header)
    stored: Any = nib.load(path)
    assert stored.get_data_dtype() == np.dtype(dtype)
    assert (stored.get_fdata() != wanted).any()  # so it was
    for value in (path, stored):
        np.testing.assert_array_equal(io.read_labels(value, LIKE).data.numpy(), wanted)
    masks = io.read_masks(path, LIKE)
    np.testing.assert_array_equal(masks[top - 1].numpy(), wanted == top)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_labels_of_any_dtype_with_the_rounding_it_brings(dtype: torch.dtype) -> None:
    wanted = torch.from_numpy(labels(14175 if dtype == torch.float32 else 40))
    noisy = (wanted * (1 + 2e-7)).to(dtype) if dtype.is_floating_point else wanted
    np.testing.assert_array_equal(io.read_labels(noisy, LIKE).data.numpy(), wanted)


def test_says_which_value_is_no_label(tmp_path: Path) -> None:
    wanted = labels(5).astype("f4")
    for value, said in ((2.5, "got 2.5 in 1 of 504"), (-1, r"got -1 \(a region to be ignored has to be 0\)")):
        wrong = wanted.copy()
        wrong[3, 3, 3] = value
        with pytest.raises(InputError, match=said):
            io.read_labels(save(tmp_path / "wrong.nii", wrong), LIKE)
    large = labels(5)
    large[1, 1, 1] = 3_000_000_000
    with pytest.raises(InputError, match="got 3000000000 in 1"):
        io.read_labels(large, LIKE)
    # Interpolated labels, saved through scaling by 5/255, are further from whole numbers than half a step.
    header = nib.Nifti1Image(np.zeros(SHAPE, "u1"), LIKE.affine).header
    wanted[2, 2, 2] = 3.3
    with pytest.raises(InputError, match=r"got 3\.29\d* in 1"):
        io.read_labels(save(tmp_path / "wrong.nii", wanted.astype(float), header=header), LIKE)


def test_a_scale_of_1_or_more_hides_no_number(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", labels(3).astype("u1"))
    contents = bytearray(path.read_bytes())
    for slope, fits in ((2.0, True), (1.5, False)):
        contents[112:120] = np.array([slope, 0], "<f4").tobytes()
        path.write_bytes(contents)
        if fits:
            np.testing.assert_array_equal(io.read_labels(path, LIKE).data.numpy(), 2 * labels(3))
        else:
            with pytest.raises(InputError, match=r"got (1|4)\.5 "):
                io.read_labels(path, LIKE)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_no_slope_is_no_scaling(tmp_path: Path, slope: float) -> None:
    path = save(tmp_path / "a.nii", labels(3).astype("u1"))
    contents = bytearray(path.read_bytes())
    contents[112:120] = np.array([slope, 3], "<f4").tobytes()
    path.write_bytes(contents)
    np.testing.assert_array_equal(io.read_labels(path, LIKE).data.numpy(), labels(3))


@pytest.mark.parametrize("size", [0.001, 1.0, 50.0])
def test_headers_are_compared_in_voxels(tmp_path: Path, size: float) -> None:
    affine = np.diag([size, size, size, 1.0])
    like = io.Volume(LIKE.data, affine)
    for share, same in ((0.05, True), (0.15, False)):
        moved = affine.copy()
        moved[1, 3] = share * size
        path = save(tmp_path / "labels.nii", labels(3).astype("u1"), moved)
        if same:
            assert io.read_labels(path, like).affine is affine
        else:
            with pytest.raises(InputError, match=f"{0.15 * size:.3g} mm off at the farthest corner"):
                io.read_labels(path, like)
            with pytest.raises(InputError, match="affine of its image"):
                io.read_masks(save(tmp_path / "stack.nii", np.eye(3)[labels(2)], moved), like)


def test_labels_whose_header_says_no_place_lie_on_their_image(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(labels(3).astype("u1"), None), tmp_path / "labels.nii")
    read = io.read_labels(tmp_path / "labels.nii", LIKE)
    np.testing.assert_array_equal(read.data.numpy(), labels(3))
    np.testing.assert_array_equal(read.affine, LIKE.affine)


def test_probabilities_are_no_masks(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).standard_normal((*SHAPE, 3))
    for maps in (special.softmax(3 * scores, -1), special.expit(scores)):
        path = save(tmp_path / "maps.nii.gz", maps.astype("f4"))
        for read in (io.read_labels, io.read_masks):
            with pytest.raises(
                InputError, match=r"maps\.nii\.gz\): expected masks, each of 0 and one more value, got 0"
            ):
                read(path, LIKE)
        argmax = save(tmp_path / "labels.nii.gz", maps.argmax(-1).astype("u1"))
        assert io.read_labels(argmax, LIKE).data.unique().tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="got NaN"):
        io.read_masks(np.full((*SHAPE, 2), np.nan), LIKE)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "?"])
def test_the_first_of_one_hot_maps_is_the_background(dtype: str) -> None:
    wanted = labels(3)
    stack = np.eye(4)[wanted].astype(dtype)
    with pytest.warns(InputWarning, match="the first is taken for the background, the others are labels 2 to 4"):
        read = io.read_labels(stack, LIKE)
    np.testing.assert_array_equal(read.data.numpy(), np.where(wanted > 0, wanted + 1, 0))
    with pytest.warns(InputWarning, match="background"):
        masks = io.read_masks(stack, LIKE)
    assert sorted(masks) == [1, 2, 3]
    np.testing.assert_array_equal(masks[2].numpy(), wanted == 2)
    # Without its background it is a stack of masks as any other.
    read = io.read_labels(stack[..., 1:], LIKE)
    np.testing.assert_array_equal(read.data.numpy(), wanted)


def test_a_stack_of_one_mask(tmp_path: Path) -> None:
    mask = 7 * labels(1)
    for value in (mask[..., None], save(tmp_path / "stack.nii", mask[..., None].astype("u1"))):
        masks = io.read_masks(value, LIKE)
        assert sorted(masks) == [0]
        np.testing.assert_array_equal(masks[0].numpy(), mask == 7)
        np.testing.assert_array_equal(io.read_labels(value, LIKE).data.numpy(), mask)
    assert sorted(io.read_masks(mask, LIKE)) == [6]


def test_masks_may_be_scaled_and_rounded(tmp_path: Path) -> None:
    stack = np.stack([labels(1, seed) for seed in range(3)], -1)
    header = nib.Nifti1Image(stack.astype("u1"), LIKE.affine).header
    path = save(tmp_path / "stack.nii", 0.7 * stack, header=header)
    masks = io.read_masks(path, LIKE)
    for i in range(3):
        np.testing.assert_array_equal(masks[i].numpy(), stack[..., i] == 1)
    noisy = stack * (1 + 1e-5 * np.random.default_rng(0).random(stack.shape)) + 1e-7
    np.testing.assert_array_equal(io.read_masks(noisy, LIKE)[1].numpy(), stack[..., 1] == 1)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_masks_of_a_slice(tmp_path: Path, at: int) -> None:
    like = io.Volume(LIKE.data[..., 0], LIKE.affine)
    stack = np.stack([labels(1, seed)[..., 0] for seed in range(3)], -1).astype("u1")
    order = [0, 1]
    order.insert(at, 2)
    affine = LIKE.affine[:, [*order, 3]]
    masks = io.read_masks(save(tmp_path / "stack.nii", np.expand_dims(stack, at), affine), like)
    for i in range(3):
        np.testing.assert_array_equal(masks[i].numpy(), stack[..., i] == 1)


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("8, 7, 6\n1, 2, 3\n", [[8, 7, 6], [1, 2, 3]]),
        ("\ufeff8,7,6\n", [[8, 7, 6]]),
        ("\ufeff# x, y, z\r\n8.5,7,6\r\n\r\n1,2,3  # the second\r\n", [[8.5, 7, 6], [1, 2, 3]]),
        ("8,7,6", [[8, 7, 6]]),
        ("\t8 ,7, 6.0e0 \n", [[8, 7, 6]]),
    ],
)
def test_landmarks_as_numpy_reads_them(tmp_path: Path, text: str, points: list[list[float]]) -> None:
    like = io.Volume(torch.rand(16, 16, 16), np.eye(4))
    path = tmp_path / "points.csv"
    path.write_bytes(text.encode())
    assert io.read_landmarks(path, like).tolist() == points


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,y,z\n8,7,6\n", "a line of columns, x, y, z"),
        ("x,y,z,t,label\n8,7,6,0,1\n", "a line of columns, x, y, z, t, label"),
        ("8;7;6\n", "could not convert string to float: '8;7;6'"),
        ("8,7\n", "got 1 lines of 2"),
        ("8,7,6\n8,7\n", "3 columns and a line of 2"),
        ("8,7,nan\n", "NaN or infinity"),
        ("", "got 0 lines"),
        ("# nothing\n", "got 0 lines"),
    ],
)
def test_says_what_is_wrong_with_landmarks(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"points\.csv: expected lines of 3 comma-separated voxel coordinates"
    ) as caught:
        io.read_landmarks(path, LIKE)
    assert said in str(caught.value)


def test_landmarks_outside_their_image_are_said(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("8,7,6\n-40.5,22,13\n")
    with pytest.warns(InputWarning, match="1 of 2 landmarks lie outside their image of 9 x 8 x 7 voxels"):
        assert io.read_landmarks(path, LIKE).tolist() == [[8, 7, 6], [-40.5, 22, 13]]


def test_a_line_as_pandas_names_columns_is_said(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text('0,1,2\n"3","4","5"\n')
    with pytest.warns(InputWarning, match=r"first landmark is \[0.0, 1.0, 2.0\]: where pandas wrote"):
        assert io.read_landmarks(tmp_path / "points.csv", LIKE).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_logarithms_of_probabilities_are_no_masks() -> None:
    stack = np.log(np.clip(np.eye(2)[np.random.default_rng(0).integers(2, size=tuple(LIKE.data.shape))], 1e-6, 1))
    with pytest.raises(InputError, match=r"labels: expected masks, .*, got -13\.8"):
        io.read_labels(stack, LIKE, "labels")
