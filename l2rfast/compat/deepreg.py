"""DeepReg's local NCC (Fu et al., JOSS 2020) for PyTorch: the names, defaults and axes of its `deepreg.loss.image`.

DeepReg itself is for TensorFlow, and is not needed.
"""

from __future__ import annotations

from torch import Tensor, nn

from .. import lncc
from ..errors import InputError

EPS = 1e-5
_WEIGHTINGS = {"rectangular": "box", "triangular": "triangular", "gaussian": "gaussian"}


class LocalNormalizedCrossCorrelation(nn.Module):
    """The squared local NCC of two images (N, D, H, W) or (N, D, H, W, 1), per item.

    Of every window (cross^2 + smooth_nr) / (var_true var_pred + smooth_dr), all three sums with weights that are not
    normalised: of a triangle 1, 2, ..., 2, 1, of a gaussian exp(-x^2 / 2 s^2) with s a third of the window's side.

    Args:
        kernel_size: side of the window, odd.
        kernel_type: ``"rectangular"``, ``"triangular"`` or ``"gaussian"``.
        smooth_nr: added to the numerator, at least 0, on the scale of the fourth power of the intensities.
        smooth_dr: added to the denominator, positive, on the same scale.
        reduction: ``"mean"`` over the items, their ``"sum"``, or ``"none"``.
        name: of the loss; kept.

    Raises:
        InputError: an unknown kernel_type or reduction; from a call, images of another shape, and what
            `l2rfast.local_ncc` raises.
    """

    sign = 1

    def __init__(
        self,
        kernel_size: int = 9,
        kernel_type: str = "rectangular",
        smooth_nr: float = EPS,
        smooth_dr: float = EPS,
        name: str = "LocalNormalizedCrossCorrelation",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if kernel_type not in _WEIGHTINGS:
            raise InputError(f"kernel_type: expected one of {', '.join(_WEIGHTINGS)}, got {kernel_type!r}")
        if reduction not in lncc.REDUCTIONS:
            raise InputError(f"reduction: expected one of {', '.join(lncc.REDUCTIONS)}, got {reduction!r}")
        self.kernel_size, self.kernel_type, self.reduction, self.name = kernel_size, kernel_type, reduction, name
        self.smooth_nr, self.smooth_dr = smooth_nr, smooth_dr

    def _ncc(self, y_true: Tensor, y_pred: Tensor, reduction: str) -> Tensor:
        images = [_channels_first(name, image) for name, image in (("y_true", y_true), ("y_pred", y_pred))]
        # Ours are normalised: sums are smaller by the volume of a triangle's weights, products of two by its square.
        volume = ((self.kernel_size + 1) // 2) ** 6 if self.kernel_type == "triangular" else 1
        return lncc.local_ncc(
            *images,
            window=self.kernel_size,
            weighting=_WEIGHTINGS[self.kernel_type],
            reduction=reduction,
            eps=self.smooth_dr / volume**2,
            smooth_nr=self.smooth_nr / volume**2,
        )

    def calc_ncc(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Of every window, in the shape of y_true."""
        return self._ncc(y_true, y_pred, "none").movedim(1, -1).reshape(y_true.shape)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """(N,): the mean over the windows, or minus that."""
        return self.sign * self.calc_ncc(y_true, y_pred).flatten(1).mean(1)

    def forward(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.reduction == "none":
            return self.call(y_true, y_pred)
        mean = self.sign * self._ncc(y_true, y_pred, "mean")
        return mean * len(y_true) if self.reduction == "sum" else mean


class LocalNormalizedCrossCorrelationLoss(LocalNormalizedCrossCorrelation):
    """Minus `LocalNormalizedCrossCorrelation`."""

    sign = -1


def _channels_first(name: str, image: Tensor) -> Tensor:
    if image.ndim not in (4, 5) or (image.ndim == 5 and image.shape[4] != 1):
        raise InputError(f"{name}: expected shape (N, D, H, W) or (N, D, H, W, 1), got {tuple(image.shape)}")
    return image[:, None] if image.ndim == 4 else image.movedim(-1, 1)


__all__ = ["LocalNormalizedCrossCorrelation", "LocalNormalizedCrossCorrelationLoss"]
