"""The operations as modules, for use in ``torch.nn.Sequential`` and in printed networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from . import fields, transforms


class Warp(nn.Module):
    """`l2rfast.warp` of (image, disp)."""

    def __init__(self, *, mode: str = "linear", padding: str = "border") -> None:
        super().__init__()
        self.mode, self.padding = mode, padding

    def forward(self, image: Tensor, disp: Tensor) -> Tensor:
        return transforms.warp(image, disp, mode=self.mode, padding=self.padding)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, padding={self.padding!r}"


class GridSample(nn.Module):
    """`l2rfast.grid_sample` of (input, grid)."""

    def __init__(self, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None) -> None:
        super().__init__()
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, align_corners

    def forward(self, input: Tensor, grid: Tensor) -> Tensor:
        return transforms.grid_sample(input, grid, self.mode, self.padding_mode, self.align_corners)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, padding_mode={self.padding_mode!r}, align_corners={self.align_corners}"


class AffineWarp(nn.Module):
    """`l2rfast.affine_warp` of (image, matrix), to a size that is fixed here or that of the image."""

    def __init__(self, size: Sequence[int] | None = None, *, mode: str = "linear", padding: str = "border") -> None:
        super().__init__()
        self.size, self.mode, self.padding = size, mode, padding

    def forward(self, image: Tensor, matrix: Tensor) -> Tensor:
        return transforms.affine_warp(image, matrix, self.size, mode=self.mode, padding=self.padding)

    def extra_repr(self) -> str:
        return f"size={self.size}, mode={self.mode!r}, padding={self.padding!r}"


class Compose(nn.Module):
    """`l2rfast.compose` of (outer, inner)."""

    def forward(self, outer: Tensor, inner: Tensor) -> Tensor:
        return fields.compose(outer, inner)


class IntegrateVelocity(nn.Module):
    """`l2rfast.integrate_velocity` of a velocity field."""

    def __init__(self, steps: int = 7, *, keep: bool = False) -> None:
        super().__init__()
        self.steps, self.keep = steps, keep

    def forward(self, velocity: Tensor) -> Tensor:
        return fields.integrate_velocity(velocity, self.steps, keep=self.keep)

    def extra_repr(self) -> str:
        return f"steps={self.steps}, keep={self.keep}"


class JacobianDeterminant(nn.Module):
    """`l2rfast.jacobian_determinant` of a displacement field."""

    def forward(self, disp: Tensor) -> Tensor:
        return fields.jacobian_determinant(disp)
