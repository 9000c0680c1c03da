"""`voxelmorph.nn.modules` of VoxelMorph 0.3; its `ResizeDisplacementField`, which samples nothing, is its own."""

from __future__ import annotations

import voxelmorph.nn.modules as modules
from torch import Tensor
from voxelmorph.nn.modules import ResizeDisplacementField

from .functional import integrate_vec, spatial_transform


class SpatialTransformer(modules.SpatialTransformer):
    """VoxelMorph's `SpatialTransformer`, which here keeps no grid."""

    def forward(self, moving_image: Tensor, deformation_field: Tensor) -> Tensor:
        assert moving_image.dim() >= 4, f"moving_image must have >=4 dims (B,C,*spatial), got {moving_image.shape}"
        assert deformation_field.dim() == moving_image.dim(), (
            f"dim mismatch: moving={moving_image.dim()}, field={deformation_field.dim()}"
        )
        result: Tensor = spatial_transform(
            moving_image, deformation_field, self.interpolation_mode, align_corners=self.align_corners
        )
        return result


class IntegrateVelocityField(modules.IntegrateVelocityField):
    """VoxelMorph's `IntegrateVelocityField`."""

    def __init__(
        self,
        shape: tuple[int, ...] | None = None,
        steps: int = 1,
        interpolation_mode: str = "linear",
        align_corners: bool = True,
        device: str | None = None,
    ) -> None:
        super().__init__(shape, steps, interpolation_mode, align_corners, device)
        self.transformer = SpatialTransformer(interpolation_mode, align_corners)

    def forward(self, velocity_field: Tensor) -> Tensor:
        return integrate_vec(velocity_field, self.steps, scale=self.scale, transformer=self.transformer)


__all__ = ["IntegrateVelocityField", "ResizeDisplacementField", "SpatialTransformer"]
