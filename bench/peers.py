"""The peers: what people use today for the same computation. Nothing but the benchmark imports them.

A function that needs a package imports it when it is called, and raises ImportError where the package is absent. In
a timed call that costs a microsecond.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_grid(shape: tuple[int, ...]) -> Tensor:
    """(1, 3, *shape): every voxel's own position."""
    axes = [torch.arange(s, dtype=torch.float32) for s in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sampling_grid(identity: Tensor, disp: Tensor, image: tuple[int, ...] | None = None) -> Tensor:
    """The (1, *shape, 3) grid that `F.grid_sample` takes: x, y, z from -1 to 1 in an image of that or another shape."""
    positions = identity + disp
    for k, size in enumerate(image or disp.shape[2:]):
        positions[:, k] = 2 * (positions[:, k] / (size - 1) - 0.5)
    return positions.permute(0, 2, 3, 4, 1).flip(-1)


def grid_to_disp(gradient: Tensor) -> Tensor:
    """The gradient to a sampling grid as the gradient to the displacement it was made of."""
    by_axis = [gradient[..., 2 - k] * 2 / (size - 1) for k, size in enumerate(gradient.shape[1:-1])]
    return torch.stack(by_axis, 1)


def grid_sample(image: Tensor, grid: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """PyTorch's sampling, the border repeated unless told."""
    return F.grid_sample(image, grid, mode, padding_mode=padding, align_corners=True)


def normalised_affine(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(1, 3, 4): a map of voxels as `F.affine_grid` takes it: of x, y, z from -1 to 1 in images of one shape."""
    half = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    linear, offset = matrix[0, :, :3].double(), matrix[0, :, 3].double()
    moved = (linear @ half + offset) / half - 1
    return torch.cat([(linear * half / half[:, None]).flip(0, 1), moved.flip(0)[:, None]], 1)[None].to(matrix.dtype)


def affine_sample(image: Tensor, normalised: Tensor) -> Tensor:
    """PyTorch's sampling through an affine map: the grid, then its samples."""
    return grid_sample(image, F.affine_grid(normalised, list(image.shape), align_corners=True))


def voxelmorph_transform(image: Tensor, disp: Tensor, identity: Tensor) -> Tensor:
    """VoxelMorph's layer, which keeps the identity grid (3, *shape); with the border repeated."""
    from voxelmorph.nn.functional import spatial_transform

    result: Tensor = spatial_transform(image, disp, meshgrid=identity, padding_mode="border")
    return result


def voxelmorph_integrate(velocity: Tensor, steps: int, identity: Tensor) -> Tensor:
    """VoxelMorph's integrate_vec, which composes by its layer; with the border repeated."""
    from voxelmorph.nn.functional import integrate_vec

    def transformer(field: Tensor, disp: Tensor) -> Tensor:
        return voxelmorph_transform(field, disp, identity)

    result: Tensor = integrate_vec(velocity, steps, transformer=transformer)
    return result


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, compiled by PyTorch; its first call does that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PyTorch itself uses
        import torch._inductor.compile_fx
    result: Callable[..., Tensor] = torch.compile(function)
    return result


def cupy_map_coordinates(image: Tensor, positions: Tensor) -> Tensor:
    """CuPy's map_coordinates of order 1 at positions (3, *shape) in voxels, the border repeated; one channel."""
    import cupy
    from cupyx.scipy.ndimage import map_coordinates

    arrays = cupy.from_dlpack(image[0, 0]), cupy.from_dlpack(positions)
    return torch.from_dlpack(map_coordinates(*arrays, order=1, mode="nearest"))[None, None]


def scipy_map_coordinates(image: Tensor, positions: Tensor) -> Tensor:
    """SciPy's map_coordinates of order 3, with its prefilter, at positions (3, *shape) in voxels, mirrored outside."""
    from scipy import ndimage

    found = ndimage.map_coordinates(image[0, 0].numpy(), positions.numpy(), order=3, mode="mirror")
    return torch.from_numpy(found)[None, None]


def monai_warp() -> Callable[[Tensor, Tensor], Tensor]:
    """MONAI's Warp, which keeps the identity grid after its first call, as pip installs it (no compiled extension)."""
    from monai.networks.blocks import Warp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it samples by F.grid_sample
        layer: Callable[[Tensor, Tensor], Tensor] = Warp(mode="bilinear", padding_mode="border")
    return layer


def interpol_pull(image: Tensor, positions: Tensor) -> Tensor:
    """torch-interpol's grid_pull at positions (1, *shape, 3) in voxels, the border repeated."""
    from interpol import grid_pull

    result: Tensor = grid_pull(image, positions, interpolation="linear", bound="replicate", extrapolate=True)
    return result


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


def monai_local_ncc(window: int = 9) -> Callable[[Tensor, Tensor], Tensor]:
    """MONAI's loss with a box."""
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    loss: Callable[[Tensor, Tensor], Tensor] = LocalNormalizedCrossCorrelationLoss(kernel_size=window)
    return loss


def monai_bending(disp: Tensor) -> Tensor:
    """MONAI's BendingEnergyLoss."""
    from monai.losses import BendingEnergyLoss

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using a non-tuple sequence")
        loss: Tensor = BendingEnergyLoss()(disp)
    return loss


def monai_mutual_information(bins: int, tiny: float) -> Callable[[Tensor, Tensor], Tensor]:
    """MONAI's loss with Gaussian windows."""
    from monai.losses import GlobalMutualInformationLoss

    loss: Callable[[Tensor, Tensor], Tensor] = GlobalMutualInformationLoss(
        "gaussian", bins, smooth_nr=tiny, smooth_dr=tiny
    )
    return loss


def fireants_local_ncc() -> Callable[[Tensor, Tensor], Tensor]:
    """FireANTs' loss in PyTorch with a box of 9 voxels."""
    from fireants.losses.cc import LocalNormalizedCrossCorrelationLoss

    loss: Callable[[Tensor, Tensor], Tensor] = LocalNormalizedCrossCorrelationLoss(kernel_size=9)
    return loss


def neurite_local_ncc() -> Callable[[Tensor, Tensor], Tensor]:
    """neurite's, which VoxelMorph uses, with a box of 9 voxels."""
    from neurite.nn.functional import ncc

    def loss(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = ncc(a, b, window_size=9, eps=1e-5)  # of each item and channel
        return result[0, 0]

    return loss


def fused_local_ncc(window: int) -> Callable[[Tensor, Tensor], Tensor]:
    """fused-lncc's loss, 1 - local NCC as MONAI has it; its gradient goes to the first image alone."""
    from fused_lncc import fused_lncc_loss

    def loss(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = fused_lncc_loss(a, b, kernel_size=window)
        return result

    return loss


def unfolded_correlation(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """The 2-D tutorial's correlation layer: PyTorch's unfold."""
    width = 2 * radius + 1
    patches = F.unfold(moving, width, padding=radius).view(1, -1, width**2, *moving.shape[2:])
    return (fixed[:, :, None] - patches).square().sum(1).view(1, width, width, *fixed.shape[2:])


class PDDNet:
    """The layers of PDD-Net after its network, of the PyTorch operations that its public code is made of.

    Costs are (1, control points, *search).
    """

    def __init__(self, grid: int, search: int, extent: float, alphas: tuple[float, ...]) -> None:
        self.grid, self.search, self.alphas = grid, search, alphas
        identity = torch.eye(3, 4)[None]
        self.points = F.affine_grid(identity, [1, 1, grid, grid, grid], align_corners=False).view(1, -1, 1, 1, 3)
        self.shifts = F.affine_grid(extent * identity, [1, 1, search, search, search], align_corners=False).view(
            1, 1, -1, 1, 3
        )

    def correlation(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """A plane of control points at a time."""
        costs = []
        for points in self.points.split(self.grid**2, 1):
            f = F.grid_sample(fixed, points, align_corners=False)
            m = F.grid_sample(moving, points + self.shifts, padding_mode="border", align_corners=False)
            costs.append((f - m).square().sum(1))
        return torch.cat(costs, 1).view(1, -1, *[self.search] * 3)

    def min_convolution(self, cost: Tensor) -> Tensor:
        padded = F.pad(-cost, [3] * 6, mode="replicate")
        least = -F.max_pool3d(padded, 3, stride=1)
        return F.avg_pool3d(F.avg_pool3d(least, 3, stride=1), 3, stride=1)

    def mean_field(self, cost: Tensor) -> Tensor:
        by_displacement = cost.view(self.grid**3, -1).t().reshape(1, -1, *[self.grid] * 3)
        padded = F.pad(by_displacement, [2] * 6, mode="replicate")
        averaged = F.avg_pool3d(F.avg_pool3d(padded, 3, stride=1), 3, stride=1)
        return averaged.view(-1, self.grid**3).t().reshape(cost.shape)

    def soft_argmin(self, cost: Tensor, beta: float) -> Tensor:
        """(1, control points, 3) in halves of the size, the last axis first."""
        p = F.softmax(-beta * cost.view(self.grid**3, -1), 1)
        return (p[:, :, None] * self.shifts.view(1, -1, 3)).sum(1)[None]

    def chain(self, fixed: Tensor, moving: Tensor) -> Tensor:
        a = self.alphas
        first = a[1] + a[0] * self.correlation(fixed, moving)
        estimate = self.mean_field(self.min_convolution(first))
        second = a[4] + a[2] * first + a[3] * estimate
        return self.soft_argmin(self.mean_field(self.min_convolution(second)), a[5])


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
