"""Interpolations that only carry an image to where a field or matrix says: they have no derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from . import _check
from ._dispatch import Operator
from ._sampling import fake_like
from .errors import InputError
from .kernels.sinc import reference as sincs
from .kernels.vote import reference as votes


@dataclass(frozen=True)
class Interpolation:
    """A mode of `warp` and `affine_warp`.

    Attributes:
        by_field: operator (image, disp, padding); by_matrix: operator (image, matrix, size, padding).
        floating: whether images are floating; otherwise they are integers or booleans.
    """

    by_field: Operator
    by_matrix: Operator
    floating: bool

    def check(self, image: Tensor) -> None:
        """The dtype of what is known to be an image."""
        if _check.is_floating(image) != self.floating:
            expected = "a floating-point dtype" if self.floating else "integers or booleans"
            raise InputError(f"image: expected {expected}, got {image.dtype}")


def _interpolation(by_field: Callable[..., Tensor], by_matrix: Callable[..., Tensor], floating: bool) -> Interpolation:
    return Interpolation(
        Operator(by_field, fake=lambda image, disp, padding: fake_like(image, disp, disp.shape[2:])),
        Operator(by_matrix, fake=lambda image, matrix, size, padding: fake_like(image, matrix, size)),
        floating,
    )


CARRYING = {
    "vote": _interpolation(votes.vote, votes.affine_vote, floating=False),
    "sinc": _interpolation(sincs.sinc, sincs.affine_sinc, floating=True),
}
