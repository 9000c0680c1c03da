"""`voxelmorph.nn.functional` of VoxelMorph 0.3: what samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import voxelmorph.nn.functional as functional
from neurite import parse_non_spatial_dims
from torch import Tensor

from ... import transforms
from ..fields import warped
from ..patching import FallThrough, Library

LIBRARY = Library("voxelmorph", ">=0.3.4,<0.4")


def _is_identity(meshgrid: Tensor) -> bool:
    """Whether a grid of positions is every voxel's own; asked once of a grid that stays as it is."""
    if torch.compiler.is_compiling():  # nothing may be asked of values; the layers make identities
        return True
    if getattr(meshgrid, "_l2rfast_identity", None) != meshgrid._version:
        for axis, positions in enumerate(meshgrid):
            own = torch.arange(positions.shape[axis], dtype=positions.dtype, device=positions.device)
            if not bool((positions == own.view([-1 if k == axis else 1 for k in range(positions.ndim)])).all()):
                return False
        meshgrid._l2rfast_identity = meshgrid._version  # type: ignore[attr-defined]
    return True


@LIBRARY.replaces(functional, "spatial_transform")
def spatial_transform(
    image: Tensor,
    trf: Tensor | None,
    method: str = "linear",
    isdisp: bool = True,
    meshgrid: Tensor | None = None,
    origin_at_center: bool = True,
    non_spatial_dims: tuple[int, ...] | None = (0, 1),
    align_corners: bool = True,
    padding_mode: str = "zeros",
) -> Tensor | FallThrough | None:
    """As `voxelmorph.nn.functional.spatial_transform`; displacement fields on the image's grid are warped by us.

    Affine matrices, coordinates, ``align_corners=False``, grids that are not the identity, and fields of another size
    than the image run VoxelMorph's code.
    """
    if trf is None:
        return image
    if not isdisp or functional._is_affine_shape(trf.shape):
        return FallThrough("an affine matrix, or coordinates")
    if not align_corners:
        return FallThrough("align_corners=False")
    missing = 2 - parse_non_spatial_dims(non_spatial_dims, image.ndim)[0]
    whole = image.reshape([1] * missing + list(image.shape))
    field = trf if trf.ndim == whole.ndim else trf[None]
    if meshgrid is not None and (meshgrid.shape != field.shape[1:] or not _is_identity(meshgrid)):
        return FallThrough("a meshgrid that is not the identity")
    if not image.is_floating_point() and method == "nearest" and whole.shape[2:] == field.shape[2:]:
        result = transforms.warp(whole, field, mode="nearest", padding=padding_mode)
    else:
        found = warped(whole if image.is_floating_point() else whole.float(), field, method, padding_mode)
        if isinstance(found, FallThrough):
            return found
        result = found
    return result.reshape(result.shape[missing:])


def integrate_vec(
    vec: Tensor,
    steps: int,
    meshgrid: Tensor | None = None,
    non_spatial_dims: tuple[int, ...] | None = (0,),
    scale: float | None = None,
    transformer: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """As `voxelmorph.nn.functional.integrate_vec`, whose steps are `spatial_transform`."""

    def step(image: Tensor, disp: Tensor) -> Tensor:
        leading = (0,) if non_spatial_dims is None else (0, 1)
        result: Tensor = spatial_transform(image, disp, meshgrid=meshgrid, non_spatial_dims=leading)
        return result

    result: Tensor = functional.integrate_vec(vec, steps, scale=scale, transformer=transformer or step)
    return result


@LIBRARY.replaces(functional, "compose")
def compose(
    transforms: Sequence[Tensor],
    interpolation_mode: str = "linear",
    origin_at_center: bool = True,
    shape: Sequence[int] | None = None,
) -> Tensor | FallThrough:
    """As `voxelmorph.nn.functional.compose`; where one transform is an affine matrix VoxelMorph's code runs."""
    if len(transforms) < 2 or any(functional._is_affine_shape(one.shape) for one in transforms):
        return FallThrough("an affine matrix, or a single transform")
    *others, whole = transforms
    batched = whole.shape[0] != whole.ndim - 1
    for other in reversed(others):
        leading = (0, 1) if batched else (0,)
        whole = whole + spatial_transform(other, whole, method=interpolation_mode, non_spatial_dims=leading)
    return whole


__all__ = ["compose", "integrate_vec", "spatial_transform"]
