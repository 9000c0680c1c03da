"""Volumes, labels, landmarks and displacement fields, in and out: the only place that knows world space.

A volume becomes a tensor whose axes are the file's array axes i, j, k in that order, never
transposed or reoriented, with the affine that takes a voxel to RAS millimetres. Headers are read as ITK reads them
(`headers`), and written so that ITK and nibabel read the same.
"""

from .displacements import read_displacement, write_displacement
from .formats import FORMATS, read_shape
from .grids import read_grid
from .images import as_volume, read_image, write_image
from .labels import read_labels, read_mask, read_masks
from .landmarks import read_landmarks
from .points import Points, paired, read_points
from .pointsets import PointSet, read_pointset
from .transforms import FORMATS as TRANSFORMS
from .transforms import read_transform, write_transform
from .transforms.itk import write_affine
from .volume import Volume, axes_in_itk, onto_plane, voxel_to_voxel

__all__ = [
    "FORMATS",
    "TRANSFORMS",
    "PointSet",
    "Points",
    "Volume",
    "as_volume",
    "axes_in_itk",
    "onto_plane",
    "paired",
    "read_displacement",
    "read_grid",
    "read_image",
    "read_labels",
    "read_landmarks",
    "read_mask",
    "read_masks",
    "read_points",
    "read_pointset",
    "read_shape",
    "read_transform",
    "voxel_to_voxel",
    "write_affine",
    "write_displacement",
    "write_image",
    "write_transform",
]
