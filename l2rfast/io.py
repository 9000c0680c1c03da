"""Volumes in, volumes and displacement fields out: the only place that knows world space.

A NIfTI volume becomes a tensor whose axes are the file's array axes i, j, k in that order, never
transposed or reoriented, with the affine that takes a voxel to RAS millimetres.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from torch import Tensor

from .errors import InputError

_LARGEST_LABEL = 2**31 - 1
_VECTOR = 1007  # the NIfTI intent that ITK takes as it stands; 1006 it would turn from RAS to LPS
_BLOCK = 2**22  # bytes that are compressed at a time
_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map and where it lies.

    Attributes:
        data: (D, H, W), axes i, j, k of the file, or (H, W); float32 for an image, uint8, int16 or int32 for labels.
        affine: (4, 4) float64, voxel -> RAS millimetres.
    """

    data: Tensor
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis, in millimetres."""
        return tuple(np.linalg.norm(self.affine[:3, : self.data.ndim], axis=0).tolist())


def read_image(path: str | os.PathLike[str]) -> Volume:
    """Read a 3-D image of any integer or floating dtype as float32; trailing axes of length 1 are dropped.

    Raises:
        InputError: the file is missing, damaged or of another kind; the image is not 3-D, is constant, or
            holds NaN or infinite values; the affine is singular.
    """
    return as_volume(str(path), _open(str(path), path))


def as_volume(name: str, value: Any, *, dims: Sequence[int] = (3,)) -> Volume:
    """Take an image from wherever it comes.

    Args:
        name: of the argument, for error messages.
        value: a path, a nibabel image, a `Volume`, or a tensor or array of shape (D, H, W) or
            (1, 1, D, H, W), which gets the identity affine: voxels of 1 mm.
        dims: how many axes it may have. An image of one slice counts as 2-D.

    Raises:
        InputError: as `read_image`, or the type is none of these.
    """
    name, data, affine = _source(name, value, dims, scaled=True)
    data = data.to(torch.float32).contiguous()
    low, high = torch.stack(torch.aminmax(data)).tolist()
    if not np.isfinite([low, high]).all():
        raise InputError(f"{name}: expected finite values, but some are NaN or infinite in float32")
    if low == high:
        raise InputError(f"{name}: expected an image, but every voxel has the value {low:g}")
    return Volume(data, affine)


def read_labels(value: Any, like: Volume, name: str = "fixed_labels") -> Volume:
    """Read a label map: whole, non-negative numbers (3.0 counts as one) on the grid of an image.

    Args:
        value: anything that `as_volume` takes; or a stack of masks, as `read_masks` takes it, in which the i-th mask
            becomes label i, from 1 on, and a later one lies on an earlier one.
        like: the image that the labels belong to.
        name: of the argument, for error messages.

    Returns:
        The labels on the CPU, in the smallest of uint8, int16 and int32 that holds them.

    Raises:
        InputError: the file cannot be read, a value is not a label, or the grid differs from the image's
            in shape or by more than 0.001 mm at a corner.
    """
    if isinstance(value, str | os.PathLike):
        name = f"{name} ({value})"
        value = _open(name, value)
    size = tuple(like.data.shape)
    shape = tuple(value.data.shape if isinstance(value, Volume) else getattr(value, "shape", ()))
    stacked = len(shape) > len(size) and shape == (*size, shape[-1]) and shape[-1] > 1
    name, data, affine = _source(name, value, (len(size) + stacked,), scaled=False)
    if stacked:
        data = ((data != 0) * torch.arange(1, shape[-1] + 1)).amax(-1)
    if data.shape != like.data.shape:
        raise InputError(f"{name}: expected the shape of its image, {tuple(like.data.shape)}, got {tuple(data.shape)}")
    ends = [(0, n - 1) for n in size] + [(0,)] * (3 - len(size))
    corners = np.array([(*c, 1) for c in itertools.product(*ends)]).T
    if isinstance(value, Tensor | np.ndarray):  # comes without an affine
        affine = like.affine
    elif not np.allclose(affine @ corners, like.affine @ corners, rtol=0, atol=1e-3):
        raise InputError(
            f"{name}: expected the affine of its image, {like.affine.round(4).tolist()}, got {affine.round(4).tolist()}"
        )
    labels = data.cpu().numpy()
    top = labels.max()
    if not (labels.min() >= 0 and top <= _LARGEST_LABEL and (labels == np.rint(labels)).all()):
        raise InputError(f"{name}: expected labels, which are whole numbers from 0 to {_LARGEST_LABEL}")
    dtype = next(d for d in (np.uint8, np.int16, np.int32) if top <= np.iinfo(d).max)
    return Volume(torch.from_numpy(labels.astype(dtype)), affine)


def voxel_to_voxel(fixed_affine: np.ndarray, moving_affine: np.ndarray, ndim: int = 3) -> np.ndarray:
    """The (ndim, ndim + 1) matrix that takes a voxel of the fixed grid to the voxel of the moving grid at its place."""
    return np.linalg.solve(moving_affine, fixed_affine)[:ndim][:, [*range(ndim), 3]]


def read_masks(path: str | os.PathLike[str], like: Volume) -> dict[int, Tensor]:
    """Read labels that may overlap: a stack of masks along a last axis, or a label map.

    Args:
        path: NIfTI of shape (*spatial, L), one mask (not 0) after the other, or (*spatial) as `read_labels` takes it.
        like: the image that the labels belong to.

    Returns:
        By number from 0 on, the place in the stack or the label less one: (*spatial) bool. Empty masks are left out.

    Raises:
        InputError: the file cannot be read, or is not on the grid of the image.
    """
    image, shape = _open(str(path), path), tuple(like.data.shape)
    if image.shape != (*shape, image.shape[-1]) or len(image.shape) == len(shape):
        labels = read_labels(image, like, str(path)).data
        masks = {int(label) - 1: labels == label for label in np.unique(labels.numpy()) if label > 0}
    else:
        stack = _read(str(path), image, scaled=False)
        masks = {i: stack[..., i] != 0 for i in range(stack.shape[-1])}
    return {i: mask for i, mask in masks.items() if mask.any()}


def read_landmarks(path: str | os.PathLike[str], like: Volume) -> Tensor:
    """Read landmarks as Learn2Reg has them: a line of comma-separated voxel coordinates each, no header.

    Args:
        path: of the CSV file.
        like: the image in whose voxels they are.

    Returns:
        (M, ndim) float64.

    Raises:
        InputError: the file cannot be read, or does not hold finite coordinates, one for each axis.
    """
    ndim = like.data.ndim
    try:
        lines = Path(path).read_text().split()
        points: np.ndarray = np.array([[float(value) for value in line.split(",")] for line in lines])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected lines of {ndim} comma-separated voxel coordinates ({error})") from error
    if points.shape[1:] != (ndim,) or not np.isfinite(points).all():
        raise InputError(f"{path}: expected lines of {ndim} comma-separated voxel coordinates, got {points.shape}")
    return torch.from_numpy(points)


def write_image(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write an image as float32, or labels in their integer dtype, to a .nii or .nii.gz file.

    qform and sform both carry the affine. A sheared one, which a qform cannot express, goes into the sform
    alone; ITK, which has no room for shears, refuses to read the file.

    Raises:
        InputError: another suffix, or an integer dtype other than uint8, int16 and int32.
        OSError: the file cannot be written.
    """
    data = volume.data.float() if volume.data.is_floating_point() else volume.data
    if data.dtype not in (torch.float32, torch.uint8, torch.int16, torch.int32):
        raise InputError(f"volume: expected a floating dtype, uint8, int16 or int32, got {data.dtype}")
    _write(path, data, volume.affine)


def write_displacement(path: str | os.PathLike[str], disp: Tensor, affine: np.ndarray) -> None:
    """Write a displacement field for ITK, ANTs, 3D Slicer and ITK-SNAP.

    Args:
        path: .nii or .nii.gz.
        disp: (1, 3, D, H, W) or (3, D, H, W), in voxels of the fixed grid.
        affine: (4, 4) of the fixed grid; what `write_image` says of a sheared one holds here too.

    The file has shape (D, H, W, 1, 3), float32, vector intent (1007), and holds LPS millimetres.

    Raises:
        InputError: another shape or suffix.
        OSError: the file cannot be written.
    """
    field = disp[0] if disp.ndim == 5 and disp.shape[0] == 1 else disp
    if field.ndim != 4 or field.shape[0] != 3:
        raise InputError(f"disp: expected shape (1, 3, D, H, W) or (3, D, H, W), got {tuple(disp.shape)}")
    vectors = _transform(_LPS @ affine[:3, :3], field.detach().cpu().float())
    _write(path, vectors.permute(1, 2, 3, 0).unsqueeze(3), affine, intent=_VECTOR)


def write_affine(path: str | os.PathLike[str], matrix: np.ndarray) -> None:
    """Write a map of the world as ITK's transform file (.txt), in LPS millimetres.

    Args:
        path: of the file.
        matrix: (4, 4), place of fixed -> place of moving, in NIfTI's RAS millimetres.

    ITK, ANTs and SimpleITK read it; in a list of transforms it comes before `write_displacement`'s field: a place of
    fixed goes through the field first.

    Raises:
        OSError: the file cannot be written.
    """
    linear, offset = _LPS @ matrix[:3, :3] @ _LPS, _LPS @ matrix[:3, 3]
    numbers = " ".join(f"{value:.17g}" for value in [*linear.flatten(), *offset])
    text = (
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )
    Path(path).write_text(text)


def read_displacement(path: str | os.PathLike[str]) -> tuple[Tensor, np.ndarray]:
    """Read a displacement field as `write_displacement`, ITK and ANTs write it.

    Returns:
        disp: (1, 3, D, H, W) float32, in voxels of the fixed grid.
        affine: (4, 4) of the fixed grid.

    Raises:
        InputError: the file cannot be read, or is not such a field.
    """
    name = str(path)
    image = _open(name, path)
    intent = image.header["intent_code"].item() if isinstance(image, nib.Nifti1Image) else None
    if image.shape[3:] != (1, 3) or intent != _VECTOR:
        raise InputError(
            f"{name}: expected a displacement field of shape (D, H, W, 1, 3) and intent {_VECTOR}, "
            f"got shape {image.shape} and intent {intent}"
        )
    affine = _affine(name, image.affine)
    vectors = _read(name, image, scaled=True).squeeze(3).permute(3, 0, 1, 2)
    return _transform(np.linalg.inv(_LPS @ affine[:3, :3]), vectors).unsqueeze(0), affine


def _source(name: str, value: Any, dims: Sequence[int], *, scaled: bool) -> tuple[str, Tensor, np.ndarray]:
    """The name for messages, the (D, H, W) or (H, W) values and the affine of anything that `as_volume` takes."""
    if isinstance(value, str | os.PathLike):
        name = f"{name} ({value})"
        value = _open(name, value)
    affine = _affine(name, value.affine) if isinstance(value, Volume | SpatialImage) else np.eye(4)
    if isinstance(value, SpatialImage):
        shape = _spatial_shape(name, value.shape, dims)
        return name, _read(name, value, scaled=scaled).reshape(shape), affine
    data = value.data if isinstance(value, Volume) else value
    if isinstance(data, np.ndarray):
        _real(name, data.dtype)
        data = _tensor(data)
    if not isinstance(data, Tensor) or data.is_complex():
        kind = f"a tensor of {data.dtype}" if isinstance(data, Tensor) else type(value).__name__
        raise InputError(f"{name}: expected a path, a nibabel image, or a real tensor or array, got {kind}")
    data = data[0, 0] if data.ndim - 2 in dims and data.shape[:2] == (1, 1) else data
    return name, data.detach().reshape(_spatial_shape(name, tuple(data.shape), dims)), affine


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: expected a NIfTI image, but there is no such file") from None
    except (
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        zlib.error,
        ImageFileError,
        HeaderDataError,
    ) as error:
        raise InputError(
            f"{name}: expected a NIfTI image, but the file is empty, damaged or of another kind"
        ) from error


def _open(name: str, path: str | os.PathLike[str]) -> SpatialImage:
    with _reading(name):
        image = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise ImageFileError
    return image


def _read(name: str, image: SpatialImage, *, scaled: bool) -> Tensor:
    """The voxels: as float32 (never a float64 copy), or as they are stored."""
    stored: Any = image.dataobj
    _real(name, stored.dtype)
    # What float32 cannot hold becomes infinite, and is reported as that.
    with _reading(name), np.errstate(over="ignore"):
        return _tensor(image.get_fdata("unchanged", np.float32) if scaled else np.asanyarray(stored))


def _real(name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputError(f"{name}: expected an integer or floating dtype of up to 64 bits, got {dtype}")


def _tensor(array: np.ndarray) -> Tensor:
    """PyTorch wants the machine's byte order, and memory that it may write to."""
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _spatial_shape(name: str, shape: tuple[int, ...], dims: Sequence[int]) -> tuple[int, ...]:
    for ndim in sorted(dims, reverse=True):
        if len(shape) >= ndim and min(shape[:ndim]) >= 2 and all(n == 1 for n in shape[ndim:]):
            return shape[:ndim]
    kinds = " or ".join(f"a {ndim}-D image" for ndim in dims)
    raise InputError(f"{name}: expected {kinds}, got shape {shape}")


def _affine(name: str, value: Any) -> np.ndarray:
    affine: np.ndarray = np.asarray(value, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Of the axes as unit vectors: tiny voxels are fine, axes in one plane but for rounding are not.
        volume = abs(np.linalg.det(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)))
    if not np.isfinite(affine).all() or not volume > 1e-4:
        raise InputError(f"{name}: expected an affine with three independent axes, got {affine.tolist()}")
    return affine


def _transform(matrix: np.ndarray, field: Tensor) -> Tensor:
    """A (3, 3) matrix applied to every vector of a (3, D, H, W) field."""
    return (torch.from_numpy(matrix).float() @ field.reshape(3, -1)).reshape(field.shape)


def _write(path: str | os.PathLike[str], data: Tensor, affine: np.ndarray, intent: int = 0) -> None:
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: expected a name that ends with .nii or .nii.gz")
    # NIfTI stores the first axis fastest; PyTorch reorders quicker than the writer would.
    array = data.detach().cpu().permute(*reversed(range(data.ndim))).contiguous().numpy().T
    image: Any = nib.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    image.set_sform(affine, code=1)
    try:
        image.set_qform(affine, code=1, strip_shears=False)
    except HeaderDataError:  # sheared
        image.set_qform(None)
    contents = image.to_bytes()
    if path.suffix == ".nii":
        path.write_bytes(contents)
        return
    # Run-length matches alone: on floats as small as the full search, in a third of the time.
    deflate = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, strategy=zlib.Z_RLE)
    with path.open("wb") as file:
        for start in range(0, len(contents), _BLOCK):
            file.write(deflate.compress(contents[start : start + _BLOCK]))
        file.write(deflate.flush())
