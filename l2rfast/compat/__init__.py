"""Other libraries' layers, by their own names, on ours: ``l2rfast.compat.<library>``, and ``l2rfast.patch``.

A module here needs the library that it is named after; `compat.voxelmorph.layers` and `compat.voxelmorph.losses`, which
are of VoxelMorph 0.2, need none. What a call asks for and we do not have, the library's own code computes.
`compat.transforms` has the transforms of SimpleITK, antspyx and nitransforms.
"""

from .patching import FallbackWarning, patch, patch_report, unpatch

__all__ = ["FallbackWarning", "patch", "patch_report", "unpatch"]
