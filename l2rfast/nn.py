"""The operations as modules, for use in ``torch.nn.Sequential`` and in printed networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import correlation, discrete, fields, normalised_grid, regularisation, transforms


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
        return normalised_grid.grid_sample(input, grid, self.mode, self.padding_mode, self.align_corners)

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


class Correlation(nn.Module):
    """`l2rfast.correlation` of (fixed, moving)."""

    def __init__(
        self,
        radius: int | Sequence[int],
        *,
        metric: str = "ssd",
        dilation: int = 1,
        padding: str = "zeros",
        smoothing: int = 0,
    ) -> None:
        super().__init__()
        self.radius, self.metric, self.dilation = radius, metric, dilation
        self.padding, self.smoothing = padding, smoothing

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return correlation.correlation(
            fixed,
            moving,
            self.radius,
            metric=self.metric,
            dilation=self.dilation,
            padding=self.padding,
            smoothing=self.smoothing,
        )

    def extra_repr(self) -> str:
        return (
            f"radius={self.radius}, metric={self.metric!r}, dilation={self.dilation}, padding={self.padding!r}, "
            f"smoothing={self.smoothing}"
        )


class LatticeCorrelation(nn.Module):
    """`l2rfast.lattice_correlation` of (fixed, moving)."""

    def __init__(
        self,
        grid_size: int | Sequence[int],
        search_size: int | Sequence[int],
        search_extent: float | Sequence[float],
        *,
        metric: str = "ssd",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.grid_size, self.search_size, self.search_extent = grid_size, search_size, search_extent
        self.metric, self.align_corners = metric, align_corners

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        on = self.grid_size, self.search_size, self.search_extent
        return correlation.lattice_correlation(fixed, moving, *on, metric=self.metric, align_corners=self.align_corners)

    def extra_repr(self) -> str:
        return (
            f"grid_size={self.grid_size}, search_size={self.search_size}, search_extent={self.search_extent}, "
            f"metric={self.metric!r}, align_corners={self.align_corners}"
        )


class MinConvolution(nn.Module):
    """`l2rfast.min_convolution` of a cost volume; an exact one learns its weight, which `exp` keeps positive."""

    def __init__(self, weight: float | None = None, *, method: str = "exact") -> None:
        super().__init__()
        self.method = method
        self.log_weight = None if weight is None else nn.Parameter(torch.tensor(float(weight)).log())

    def forward(self, cost: Tensor) -> Tensor:
        weight = None if self.log_weight is None else self.log_weight.exp()
        return regularisation.min_convolution(cost, weight, method=self.method)

    def extra_repr(self) -> str:
        weight = "" if self.log_weight is None else f"weight={float(self.log_weight.detach().exp()):.4g}, "
        return f"{weight}method={self.method!r}"


class MeanField(nn.Module):
    """`l2rfast.mean_field` of a cost volume."""

    def __init__(self, *, radius: int = 1, passes: int = 2) -> None:
        super().__init__()
        self.radius, self.passes = radius, passes

    def forward(self, cost: Tensor) -> Tensor:
        return regularisation.mean_field(cost, radius=self.radius, passes=self.passes)

    def extra_repr(self) -> str:
        return f"radius={self.radius}, passes={self.passes}"


class SoftArgmin(nn.Module):
    """`l2rfast.soft_argmin` of a cost volume: the displacements; it learns how sharp they are."""

    def __init__(self, beta: float = 1.0, *, dilation: float | Sequence[float] = 1) -> None:
        super().__init__()
        self.beta, self.dilation = nn.Parameter(torch.tensor(float(beta))), dilation

    def forward(self, cost: Tensor) -> Tensor:
        field = regularisation.soft_argmin(cost, self.beta, dilation=self.dilation)
        assert isinstance(field, Tensor)
        return field

    def extra_repr(self) -> str:
        return f"beta={float(self.beta.detach()):.4g}, dilation={self.dilation}"


class DiscreteDisplacement(nn.Module):
    """`l2rfast.discrete_displacement` of (fixed, moving), by pooling; it learns its six factors."""

    def __init__(
        self,
        grid_size: int | Sequence[int],
        search_size: int | Sequence[int],
        search_extent: float | Sequence[float],
        alphas: Sequence[float] = discrete.ALPHAS,
        *,
        align_corners: bool = False,
        memory: str = "normal",
    ) -> None:
        super().__init__()
        self.grid_size, self.search_size, self.search_extent = grid_size, search_size, search_extent
        self.alphas = nn.Parameter(torch.tensor([float(a) for a in alphas]))
        self.align_corners, self.memory = align_corners, memory

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        on = self.grid_size, self.search_size, self.search_extent
        found = discrete.discrete_displacement(
            fixed, moving, *on, self.alphas, align_corners=self.align_corners, memory=self.memory
        )
        assert isinstance(found, Tensor)
        return found

    def extra_repr(self) -> str:
        return (
            f"grid_size={self.grid_size}, search_size={self.search_size}, search_extent={self.search_extent}, "
            f"align_corners={self.align_corners}, memory={self.memory!r}"
        )
