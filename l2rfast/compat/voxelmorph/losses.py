"""`voxelmorph.torch.losses` of VoxelMorph 0.2: objects with a method ``loss``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...errors import InputError
from ...lncc import local_ncc
from ...losses import diffusion_energy


class NCC:
    """Minus the local NCC of two images (N, 1, *spatial), in windows of 9 voxels a side unless told."""

    def __init__(self, win: Sequence[int] | None = None) -> None:
        self.win = win

    def loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return -local_ncc(y_true, y_pred, window=self.win or 9)


class Grad:
    """How much a displacement field (N, ndim, *spatial) varies: the mean over axes of |D u|, or (D u)^2."""

    def __init__(self, penalty: str = "l1", loss_mult: float | None = None) -> None:
        if penalty not in ("l1", "l2"):
            raise InputError(f"penalty: expected one of l1, l2, got {penalty!r}")
        self.penalty, self.loss_mult = penalty, loss_mult

    def loss(self, _: Tensor | None, y_pred: Tensor) -> Tensor:
        axes = range(2, y_pred.ndim)
        if self.penalty == "l2":
            energy = diffusion_energy(y_pred)
        else:
            means = [y_pred.diff(dim=axis).abs().mean() for axis in axes]
            energy = sum(means[1:], means[0]) / len(axes)
        return energy * self.loss_mult if self.loss_mult else energy


class Dice:
    """Minus the mean over items and labels of the soft Dice overlap of two (N, labels, *spatial)."""

    def loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        axes = list(range(2, y_pred.ndim))
        top = 2 * (y_true * y_pred).sum(axes)
        bottom = (y_true + y_pred).sum(axes).clamp(min=1e-5)
        return -(top / bottom).mean()


__all__ = ["NCC", "Dice", "Grad"]
