"""Scans as a page has them: few enough bytes to be a part of it, and along the axes of the world, as NIfTI."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from isal import isal_zlib
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d

from ..fields import jacobian_determinant
from ..methods.intensities import robust_range

# The floor of a page is to read every image once and to write its bytes. It is made beside the picture, by the thread
# that writes the fields: of 160 x 192 x 224 voxels in some 0.6 s of one processor, of which gzip is a quarter.
LIMIT = 8_200_000  # bytes, in base64 a third more: with NiiVue and the picture the page stays below 15 MB
VOXELS = 8_000_000  # of one volume: what a phone's browser still holds, four times and in colours
NODES = 56  # of the displacement, along the longest axis
RANGE = 2.0  # of the log Jacobian, either way
_LEVEL = 2  # of gzip, of 0 to 3
_VECTORS = 1007  # NIfTI's intents
_LABELS = 1002


@dataclass(frozen=True, eq=False)
class Pair:
    """A registration, all of it on the grid of fixed.

    Attributes:
        images: ``fixed``, ``moving`` and ``warped``, (D, H, W) or (H, W), floating; what is NaN is shown as black.
        displacement: (1, ndim, *spatial), in voxels.
        folds: (*spatial) bool.
        labels: ``fixed_labels`` and ``warped_labels``, integers; empty without.
        affine: (4, 4), voxel -> RAS millimetres.
    """

    images: dict[str, Tensor]
    displacement: Tensor
    folds: Tensor
    labels: dict[str, Tensor]
    affine: np.ndarray

    def windows(self) -> dict[str, tuple[float, float]]:
        """Of each image, the values that are black and white: warped's are moving's."""
        fixed, moving = (_window(self.images[name]) for name in ("fixed", "moving"))
        return {"fixed": fixed, "moving": moving, "warped": moving}

    def jacobian(self) -> Tensor:
        """(*spatial), the determinant's logarithm; NaN where it is negative."""
        return jacobian_determinant(self.displacement)[0].log_()


@dataclass(frozen=True, eq=False)
class Embedded:
    """What a page holds of a registration.

    Attributes:
        files: gzipped NIfTI, by name: ``fixed``, ``moving``, ``warped``, ``displacement``, ``jacobian``; and
            ``fixed_labels``, ``warped_labels`` and ``folds`` where there are any. Their axes are those of the world, as
            near as may be, and vectors are in voxels of the whole grid along them.
        steps: of each, voxels of the whole grid from one of its own to the next, along each axis.
        windows: of the images.
        note: what was done to them, in sentences.
    """

    files: dict[str, bytes]
    steps: dict[str, list[int]]
    windows: dict[str, tuple[float, float]]
    note: str


def embedded(pair: Pair, limit: int | None = LIMIT) -> Embedded:
    """As much of a registration as fits.

    Images become bytes within their windows, and the log Jacobian within `RANGE`. Where there are too many the grid is
    made coarser, along its finest axis first: images become means of their voxels, of labels single ones are kept, and
    a fold stays one.

    Args:
        limit: bytes of all files together; None: every voxel, and images as they are, in float32.
    """
    grid = _Grid(pair)
    windows = pair.windows()
    field = _field(grid)
    drawn = grid.nifti(field, grid.nodes())
    volumes = list(_volumes(grid, windows, whole=limit is None))
    steps = [1, 1, 1]
    while limit is not None and grid.voxels(steps) > VOXELS:
        grid.coarser(steps)
    while True:
        places = {each.name: grid.steps(steps, each.least) for each in volumes}
        files = {each.name: grid.nifti(each.at(places[each.name]), places[each.name]) for each in volumes}
        files[field.name], places[field.name] = drawn, grid.nodes()
        if limit is None or sum(map(len, files.values())) <= limit:
            break
        grid.coarser(steps)
    return Embedded(files, places, windows, _note(grid, steps, None if limit is None else windows))


@dataclass(frozen=True, eq=False)
class _Volume:
    """(1, C, X, Y, Z), what its numbers mean, and what becomes of them on a coarser grid."""

    name: str
    data: Tensor
    scale: tuple[float, float] = (1.0, 0.0)
    intent: int = 0
    least: int = 1  # step

    def at(self, steps: Sequence[int]) -> _Volume:
        """On a coarser grid."""
        if max(steps) == 1:
            return self
        return replace(self, data=self._pooled(tuple(steps)))

    def _pooled(self, steps: tuple[int, ...]) -> Tensor:
        if self.intent == _LABELS:
            x, y, z = (slice((step - 1) // 2, None, step) for step in steps)
            return self.data[:, :, x, y, z]
        numbers = self.data.float()
        if self.name == "folds":
            return max_pool3d(numbers, steps, ceil_mode=True).to(self.data.dtype)
        means = avg_pool3d(numbers, steps, ceil_mode=True, count_include_pad=False)
        return (means if self.data.is_floating_point() else means.round_()).to(self.data.dtype)


class _Grid:
    """The grid of a pair, along the axes of the world."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._shape = (*pair.folds.shape, 1)[:3]
        self.turn = io_orientation(pair.affine)  # type: ignore[no-untyped-call]
        self.affine = pair.affine @ inv_ornt_aff(self.turn, self._shape)  # type: ignore[no-untyped-call]
        self.shape = [self._shape[axis] for axis in self.turn[:, 0].argsort()]
        self.spacing = np.linalg.norm(self.affine[:3, :3], axis=0)

    def turned(self, volume: Tensor) -> Tensor:
        """(*spatial) -> (1, 1, X, Y, Z)."""
        array = volume.detach().cpu().reshape(self._shape).numpy()
        turned = apply_orientation(array, self.turn)  # type: ignore[no-untyped-call]
        return torch.from_numpy(np.ascontiguousarray(turned))[None, None]

    def nodes(self) -> list[int]:
        """Steps between the vectors that are drawn."""
        apart = max(np.multiply(self.shape, self.spacing)) / NODES
        return [max(1, min(n, round(apart / mm))) for n, mm in zip(self.shape, self.spacing, strict=True)]

    def steps(self, steps: Sequence[int], least: int) -> list[int]:
        return [min(n, max(step, least)) for n, step in zip(self.shape, steps, strict=True)]

    def voxels(self, steps: Sequence[int]) -> int:
        return math.prod(-(-n // step) for n, step in zip(self.shape, steps, strict=True))

    def coarser(self, steps: list[int]) -> None:
        """Take one more voxel together along the axis whose voxels are smallest."""
        axes = [axis for axis in range(3) if steps[axis] < self.shape[axis]]
        steps[min(axes, key=lambda axis: float(self.spacing[axis] * steps[axis]))] += 1

    def nifti(self, volume: _Volume, steps: Sequence[int]) -> bytes:
        """The file of a volume that is on a grid of these steps."""
        affine = self.affine @ np.diag([*steps, 1])
        affine[:3, 3] += self.affine[:3, :3] @ (np.array(steps) - 1) / 2  # the middle of the first voxels
        array = volume.data[0].permute(1, 2, 3, 0)[:, :, :, None].numpy()
        header: Any = nib.Nifti1Header()  # type: ignore[no-untyped-call]
        header.set_data_shape(array.shape if array.shape[-1] > 1 else array.shape[:3])
        header.set_data_dtype(array.dtype)
        header.set_zooms([*np.linalg.norm(affine[:3, :3], axis=0), *[1.0] * (len(header.get_data_shape()) - 3)])
        header.set_sform(affine, code=1)
        header.set_slope_inter(*volume.scale)
        header.set_intent(volume.intent, allow_unknown=True)
        header["vox_offset"] = 352
        deflate = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
        packed: bytes = deflate.compress(header.binaryblock + bytes(4) + array.tobytes("F")) + deflate.flush()
        return packed


def _volumes(grid: _Grid, windows: dict[str, tuple[float, float]], *, whole: bool) -> Iterator[_Volume]:
    """All but the displacement."""
    pair = grid.pair
    for name, image in pair.images.items():
        low, high = windows[name]
        if whole:
            yield _Volume(name, grid.turned(image.float()).nan_to_num_(low))
        else:
            yield _in_bytes(grid, name, image, low, high)
    for name, labels in pair.labels.items():
        yield _Volume(name, grid.turned(_smallest(labels)), intent=_LABELS)
    # It is smooth, and in full would be half of the page.
    yield _in_bytes(grid, "jacobian", pair.jacobian(), -RANGE, RANGE, least=1 if whole else 2)
    if pair.folds.any():
        yield _Volume("folds", grid.turned(pair.folds.byte()))


def _in_bytes(grid: _Grid, name: str, image: Tensor, low: float, high: float, least: int = 1) -> _Volume:
    """From low to high, 0 to 254: the middle of a range is a number of its own."""
    scale = (high - low) / 254 or 1.0
    numbers = (image.detach() - low).div_(scale).nan_to_num_(0, 254, 0).clamp_(0, 254).round_().byte()
    return _Volume(name, grid.turned(numbers), (scale, low), least=least)


def _smallest(labels: Tensor) -> Tensor:
    """In the narrowest dtype that holds them."""
    most = int(labels.max())
    return labels.to(torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32)


def _field(grid: _Grid) -> _Volume:
    """At its nodes, with components along the axes of the grid; across a slice 0."""
    steps = grid.nodes()
    found = torch.zeros(1, 3, *(-(-n // step) for n, step in zip(grid.shape, steps, strict=True)))
    for part, (axis, sign) in zip(grid.pair.displacement[0], grid.turn, strict=False):
        found[0, int(axis)] = sign * _Volume("component", grid.turned(part)).at(steps).data[0, 0]
    scale = max(float(found.abs().max()), 1e-6) / 32767
    return _Volume("displacement", (found / scale).round_().short(), (scale, 0.0), _VECTORS)


def _window(image: Tensor) -> tuple[float, float]:
    known = ~image.isnan()
    return robust_range(image, None if known.all() else known)


def _note(grid: _Grid, steps: Sequence[int], windows: dict[str, tuple[float, float]] | None) -> str:
    """With the windows of images that are shown within them."""
    full, nodes = (" x ".join(map(str, numbers)) for numbers in (grid.shape, grid.nodes()))
    field = f"The displacement is drawn by its means over {nodes} voxels."
    if windows is None:
        return f"Full resolution: all {full} voxels, their values as they are in the files. {field}"
    size = f"All {full} voxels"
    if max(steps) > 1:
        coarse = " x ".join(str(-(-n // step)) for n, step in zip(grid.shape, steps, strict=True))
        size = f"Means of {' x '.join(map(str, steps))} voxels each, {coarse} of {full}"
    shown = "; ".join(f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in windows.items())
    jacobian = " x ".join(map(str, grid.steps(steps, 2)))
    return (
        f"So that the page stays small: {size[0].lower()}{size[1:]}, in 255 grey levels ({shown}). The log Jacobian has"
        f" means over {jacobian} voxels. {field}"
    )
