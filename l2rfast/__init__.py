"""Fast, exact layers for learned image registration. See ``l2rfast.info()`` for what runs here."""

from typing import TYPE_CHECKING, Any

from ._dispatch import backend
from ._info import info
from .discrete import correlation, coupled_convex, inverse_consistency, mind_ssc
from .errors import BackendError, InputError
from .filters import box_average
from .losses import local_ncc, warp_ssd
from .transforms import affine_warp, jacobian_determinant, warp

if TYPE_CHECKING:
    from .methods.registration import register

__all__ = [
    "BackendError",
    "InputError",
    "affine_warp",
    "backend",
    "box_average",
    "correlation",
    "coupled_convex",
    "info",
    "inverse_consistency",
    "jacobian_determinant",
    "local_ncc",
    "mind_ssc",
    "register",
    "warp",
    "warp_ssd",
]


def __getattr__(name: str) -> Any:
    # The methods are built on the operations, and bring nibabel: loaded when first asked for.
    if name == "register":
        from .methods.registration import register

        return register
    raise AttributeError(f"module 'l2rfast' has no attribute {name!r}")
