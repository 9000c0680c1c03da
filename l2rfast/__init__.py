"""Fast, exact layers for learned image registration. See ``l2rfast.info()`` for what runs here."""

from . import _interrupt as _interrupt  # before what takes long

# isort: split
import importlib
from typing import TYPE_CHECKING, Any

from . import losses, nn
from ._dispatch import backend
from ._info import info
from .correlation import correlation, lattice_correlation, lattice_steps, shift_labels
from .discrete import discrete_displacement, inverse_consistency, mind_ssc
from .errors import BackendError, InputError
from .fields import compose, compose_steps, digital_jacobian, integrate_velocity, invert, jacobian_determinant
from .filters import block_average, box_average
from .histogram import joint_histogram
from .lncc import local_ncc, warp_local_ncc
from .losses import warp_ssd
from .normalised_grid import grid_sample
from .optimisation import adam_step
from .regularisation import coupled_convex, mean_field, min_convolution, soft_argmin
from .transforms import affine_warp, spline_coefficients, warp, warp_many, warp_with_gradient

if TYPE_CHECKING:
    from .compat.patching import FallbackWarning, patch, patch_report, unpatch
    from .io.transforms import read_transform, write_transform
    from .methods.registration import register

__all__ = [
    "BackendError",
    "FallbackWarning",
    "InputError",
    "adam_step",
    "affine_warp",
    "backend",
    "block_average",
    "box_average",
    "compose",
    "compose_steps",
    "correlation",
    "coupled_convex",
    "digital_jacobian",
    "discrete_displacement",
    "grid_sample",
    "info",
    "integrate_velocity",
    "inverse_consistency",
    "invert",
    "jacobian_determinant",
    "joint_histogram",
    "lattice_correlation",
    "lattice_steps",
    "local_ncc",
    "losses",
    "mean_field",
    "min_convolution",
    "mind_ssc",
    "nn",
    "patch",
    "patch_report",
    "read_transform",
    "register",
    "shift_labels",
    "soft_argmin",
    "spline_coefficients",
    "unpatch",
    "warp",
    "warp_local_ncc",
    "warp_many",
    "warp_ssd",
    "warp_with_gradient",
    "write_transform",
]


# Loaded when first asked for: the methods are built on the operations, and bring nibabel.
_LATER = {
    "register": "methods.registration",
    **dict.fromkeys(("read_transform", "write_transform"), "io.transforms"),
    **dict.fromkeys(("FallbackWarning", "patch", "patch_report", "unpatch"), "compat.patching"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'l2rfast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"l2rfast.{_LATER[name]}"), name)
