"""OME-Zarr: images and displacement fields in chunks, of which only what is asked for is read.

A folder in which the resolutions of one image lie, by OME-NGFF 0.4 on Zarr v2, 0.5 and 0.6 on Zarr v3, of which 0.5 is
written, and 0.6 of fields. An axis has a name, x, y or z, a unit, a scale and a translation, and no anatomy: as ITK and
ngff-zarr have it, x, y and z are the axes of ITK's space, left, posterior and superior. So the affine, to RAS, turns x
and y.

A field is what the transformation ``displacements`` of 0.6 (RFC-5) finds by its path: an image of one more axis, of the
type ``displacement``, first, along which the components lie in the order of the other axes, in their units.
"""

from __future__ import annotations

from .fields import StoredField, around, read_field
from .levels import Level, is_zarr, open_levels, open_zarr, whether_whole, whole
from .writing import CHUNK, FieldWriter, written, written_field

__all__ = [
    "CHUNK",
    "FieldWriter",
    "Level",
    "StoredField",
    "around",
    "is_zarr",
    "open_levels",
    "open_zarr",
    "read_field",
    "whether_whole",
    "whole",
    "written",
    "written_field",
]
