"""The peers: what people use today for the same computation. Nothing but the benchmark imports them.

A function that needs a package imports it when it is called, and raises ImportError where the package is absent. In
a timed call that costs a microsecond.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_grid(shape: tuple[int, ...]) -> Tensor:
    """(1, 3, *shape): every voxel's own position."""
    axes = [torch.arange(s, dtype=torch.float32) for s in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sampling_grid(identity: Tensor, disp: Tensor) -> Tensor:
    """The (1, *shape, 3) grid that `F.grid_sample` takes, made as VoxelMorph's SpatialTransformer makes it."""
    positions = identity + disp
    for k, size in enumerate(disp.shape[2:]):
        positions[:, k] = 2 * (positions[:, k] / (size - 1) - 0.5)
    return positions.permute(0, 2, 3, 4, 1)[..., [2, 1, 0]]


def grid_sample(image: Tensor, grid: Tensor) -> Tensor:
    """PyTorch's sampling, the border repeated."""
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def spatial_transformer(image: Tensor, disp: Tensor, identity: Tensor) -> Tensor:
    """VoxelMorph's layer, which keeps the identity grid; with the border repeated, so that results compare."""
    return grid_sample(image, sampling_grid(identity, disp))


def separable_local_ncc(a: Tensor, b: Tensor, window: int = 9, eps: float = 1e-5) -> Tensor:
    """VoxelMorph's loss (its positive part), the window sums of its five channels by 1-D convolutions."""
    sums = torch.cat([a, b, a * a, b * b, a * b], 1)
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = window, window // 2
        sums = F.conv3d(sums, torch.ones(5, 1, *kernel), padding=padding, groups=5)
    sa, sb, saa, sbb, sab = sums.unbind(1)
    volume = window**3
    cross = sab - sa * sb / volume
    var_a, var_b = saa - sa * sa / volume, sbb - sb * sb / volume
    return (cross * cross / (var_a * var_b + eps)).mean()


def convexadam_mind(image: Tensor, radius: int, dilation: int) -> Tensor:
    """ConvexAdam's MINDSSC."""
    from convexAdam.convex_adam_utils import MINDSSC

    result: Tensor = MINDSSC(image, radius, dilation, device="cpu")
    return result


def convexadam_correlate(
    fixed: Tensor, moving: Tensor, radius: int, spacing: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """ConvexAdam's correlate: cost volume and arg-min; ``shape`` is that of the images before pooling."""
    from convexAdam.convex_adam_utils import correlate

    result: tuple[Tensor, Tensor] = correlate(fixed, moving, radius, spacing, shape, fixed.shape[1])
    return result


def from_convexadam(cost: Tensor) -> Tensor:
    """ConvexAdam's cost volume (E, *spatial), first search axis fastest, as (1, *search, *spatial)."""
    width = round(len(cost) ** (1 / 3))
    return cost.view(width, width, width, *cost.shape[1:]).permute(2, 1, 0, 3, 4, 5)[None]


def to_convexadam(cost: Tensor) -> Tensor:
    """The inverse of `from_convexadam`."""
    return cost[0].permute(2, 1, 0, 3, 4, 5).flatten(0, 2).contiguous()


def search_mesh(radius: int) -> Tensor:
    """(3, E, 1): the displacements in ConvexAdam's order."""
    width = 2 * radius + 1
    mesh = F.affine_grid(radius * torch.eye(3, 4)[None], [1, 1, width, width, width], align_corners=True)
    return mesh.permute(0, 4, 1, 2, 3).reshape(3, -1, 1)


def convexadam_coupled_convex(
    cost: Tensor, argmin: Tensor, mesh: Tensor, spacing: int, shape: tuple[int, ...]
) -> Tensor:
    """ConvexAdam's coupled_convex."""
    from convexAdam.convex_adam_utils import coupled_convex

    result: Tensor = coupled_convex(cost, argmin, mesh, spacing, shape)
    return result
