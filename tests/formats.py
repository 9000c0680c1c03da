"""Images in other formats than NIfTI, written by SimpleITK at a place of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from l2rfast import io

SHAPE = (9, 8, 7)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [10, -25, 160], degrees=True).as_matrix() * [1.5, 0.9, 2.2]
OBLIQUE[:3, 3] = [-20, 31, 7.5]
CORNERS = [(0, 0, 0), (8, 0, 0), (0, 7, 0), (0, 0, 6), (5, 3, 2)]


def values(shape: Sequence[int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, shape, np.int16)


def itk_image(array: np.ndarray, affine: np.ndarray = OBLIQUE) -> sitk.Image:
    """At a place in RAS millimetres."""
    image, axes, turned = sitk.GetImageFromArray(array.T), array.ndim, LPS @ affine
    spacing = np.linalg.norm(turned[:axes, :axes], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((turned[:axes, :axes] / spacing).flatten().tolist())
    image.SetOrigin(turned[:axes, 3].tolist())
    return image


def places(volume: io.Volume, voxels: Any = CORNERS) -> np.ndarray:
    return np.array([(volume.affine @ [*voxel, 1])[:3] for voxel in voxels])


def itk_places(path: Path) -> np.ndarray:
    seen = sitk.ReadImage(str(path))
    return np.array([seen.TransformIndexToPhysicalPoint(voxel) for voxel in CORNERS]) * [-1, -1, 1]


SLOPE = b"\x28\x00\x53\x10\x02\x00\x00\x00"  # of DICOM, before two characters


def series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray = OBLIQUE,
    *,
    uid: str = "1.2.3.4",
    description: str = "",
    skip: Sequence[int] = (),
    places: np.ndarray | None = None,
    prefix: str = "slice",
    slopes: Sequence[str] = (),
) -> Path:
    """A DICOM series, its files in the order of no slices."""
    folder.mkdir(exist_ok=True)
    turned = LPS @ affine
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    axes = (turned[:3, :2] / spacing[:2]).T.flatten()
    names = np.random.default_rng(0).permutation(array.shape[2])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in set(range(array.shape[2])) - set(skip):
        image = sitk.GetImageFromArray(array[:, :, k].T[None] * (2 if slopes else 1))
        image.SetSpacing(spacing.tolist())
        place = (turned @ [0, 0, k, 1])[:3] if places is None else LPS[:3, :3] @ places[k]
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{uid}.{k + 1}",
            "0008|0060": "MR",
            "0008|103e": description,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(names[k]),
            "0020|0032": "\\".join(f"{value:.10g}" for value in place),
            "0020|0037": "\\".join(f"{value:.10g}" for value in axes),
        }
        if slopes:
            tags |= {"0028|1052": "0", "0028|1053": "2"}  # by which GDCM divides
        for tag, text in tags.items():
            image.SetMetaData(tag, text)
        file = folder / f"{prefix}{names[k]:02}.dcm"
        writer.SetFileName(str(file))
        writer.Execute(image)
        if slopes:
            contents = file.read_bytes()
            assert contents.count(SLOPE + b"2 ") == 1
            file.write_bytes(contents.replace(SLOPE + b"2 ", SLOPE + slopes[k].encode()))
    return folder
