"""Transforms of the world: one small algebra for affine maps, displacement and velocity fields, and chains of them.

The world is NIfTI's, in RAS millimetres, and has three axes; slices lie in it too. A transform takes a place of the
fixed world to the place of the moving world that corresponds to it: the direction in which images are resampled.
"""

from .algebra import Affine, Composite, Displacement, Field, Inverse, Transform, Velocity, compose, within
from .grid import Grid
from .points import at_points
from .reach import followed

__all__ = [
    "Affine",
    "Composite",
    "Displacement",
    "Field",
    "Grid",
    "Inverse",
    "Transform",
    "Velocity",
    "at_points",
    "compose",
    "followed",
    "within",
]
