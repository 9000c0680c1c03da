"""ConvexAdam's functions (Siebert et al., IEEE TMI 2024): the five steps, and the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import convexAdam.convex_adam_MIND as whole
import convexAdam.convex_adam_utils as steps
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import regularisation
from ..correlation import correlation
from ..discrete import mind_ssc
from ..filters import box_average
from ..losses import diffusion_energy, warp_ssd
from .patching import FallThrough, Library
from .torch import grid_sample

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # ConvexAdam's
LIBRARY = Library("convexAdam", ">=0.2,<0.3")
LIBRARY.uses(whole, "F", grid_sample=grid_sample)  # for what `convex_adam_pt` below leaves to it


@LIBRARY.replaces(steps, "MINDSSC")
def MINDSSC(img: Tensor, radius: int = 2, dilation: int = 2, device: Any = "cuda") -> Tensor | FallThrough:
    """As `convexAdam.convex_adam_utils.MINDSSC`; ``device`` must be the image's."""
    if img.ndim != 5 or img.shape[1] != 1 or img.numel() == 0 or img.dtype not in (torch.float32, torch.float64):
        return FallThrough("shapes or dtypes that we do not take")
    if torch.device(device).type != img.device.type or radius < 0 or dilation < 1 or img.requires_grad:
        return FallThrough("another device, a gradient, or parameters out of range")
    return mind_ssc(img, radius, dilation)


@LIBRARY.replaces(steps, "correlate")
def correlate(
    mind_fix: Tensor, mind_mov: Tensor, disp_hw: int, grid_sp: int, shape: Sequence[int], ch: int = 12
) -> tuple[Tensor, Tensor] | FallThrough:
    """As `convexAdam.convex_adam_utils.correlate`: costs (displacements, *grid), and the cheapest displacement."""
    grid = [int(side) // grid_sp for side in shape[:3]]
    if list(mind_fix.shape) != [1, ch, *grid] or mind_fix.shape != mind_mov.shape or 0 in mind_fix.shape:
        return FallThrough("shapes that we do not take")
    if mind_fix.dtype != mind_mov.dtype or mind_fix.dtype not in (torch.float32, torch.float64):
        return FallThrough("dtypes that we do not take")
    with torch.no_grad():
        cost = correlation(mind_fix, mind_mov, disp_hw, smoothing=2)
    listed = cost[0].permute(2, 1, 0, 3, 4, 5).flatten(0, 2)  # the first search axis fastest
    return listed, torch.argmin(listed, 0)


def _search(radius: int, like: Tensor) -> Tensor:
    """(3, displacements, 1), as `convex_adam_pt` makes them."""
    width = 2 * radius + 1
    one = radius * torch.eye(3, 4, dtype=like.dtype, device=like.device)[None]
    return F.affine_grid(one, [1, 1, width, width, width], align_corners=True).permute(0, 4, 1, 2, 3).reshape(3, -1, 1)


@LIBRARY.replaces(steps, "coupled_convex")
def coupled_convex(
    ssd: Tensor, ssd_argmin: Tensor, disp_mesh_t: Tensor, grid_sp: int, shape: Sequence[int]
) -> Tensor | FallThrough:
    """As `convexAdam.convex_adam_utils.coupled_convex`, of all displacements in a cube."""
    width = round(len(ssd) ** (1 / 3))
    if ssd.ndim != 4 or width**3 != len(ssd) or width % 2 == 0 or ssd.dtype not in (torch.float32, torch.float64):
        return FallThrough("shapes or dtypes that we do not take")
    mesh = _search(width // 2, ssd)
    if disp_mesh_t.shape != mesh.shape or not torch.allclose(disp_mesh_t, mesh, rtol=1e-5, atol=1e-5):
        return FallThrough("displacements that are not all of a cube")
    cost = ssd.reshape(width, width, width, *ssd.shape[1:]).permute(0, 1, 2, 5, 4, 3)[None]
    return _turned(regularisation.coupled_convex(cost).flip(1))


def _turned(image: Tensor) -> Tensor:
    """The last axis first: of displacements of one cost, ConvexAdam takes the first where the first axis is fastest."""
    return image.permute(0, 1, 4, 3, 2).contiguous()


@LIBRARY.replaces(steps, "inverse_consistency")
def inverse_consistency(disp_field1s: Tensor, disp_field2s: Tensor, iter: int = 20) -> tuple[Tensor, Tensor]:
    """As `convexAdam.convex_adam_utils.inverse_consistency`: fields in halves of the image, x first."""
    size = disp_field1s.shape[2:]
    identity = F.affine_grid(torch.eye(3, 4, device="cpu")[None], [1, 1, *size], align_corners=False).to(disp_field1s)

    def moved(field: Tensor, by: Tensor) -> Tensor:
        sampled: Tensor = grid_sample(field, identity + by.permute(0, 2, 3, 4, 1), align_corners=False)
        return sampled

    one, two = disp_field1s, disp_field2s
    with torch.no_grad():
        for _ in range(iter):
            one, two = 0.5 * (one - moved(two, one)), 0.5 * (two - moved(one, two))
    return one, two


@LIBRARY.replaces(whole, "convex_adam_pt")
def convex_adam_pt(
    img_fixed: Any,
    img_moving: Any,
    mind_r: int = 1,
    mind_d: int = 2,
    lambda_weight: float = 1.25,
    grid_sp: int = 6,
    disp_hw: int = 4,
    selected_niter: int = 80,
    selected_smooth: int = 0,
    grid_sp_adam: int = 2,
    ic: bool = True,
    use_mask: bool = False,
    path_fixed_mask: Any = None,
    path_moving_mask: Any = None,
    dtype: torch.dtype = torch.float16,
    verbose: bool = False,
    device: torch.device | str = _DEVICE,
) -> Any:
    """As `convexAdam.convex_adam_MIND.convex_adam_pt`: (D, H, W, 3) displacements in voxels.

    Masks, no inverse consistency, no Adam, smoothing afterwards, and other devices than the CPU run ConvexAdam's code,
    on the functions above.
    """
    if use_mask or not ic or not lambda_weight > 0 or selected_smooth or selected_niter < 1 or verbose:
        return FallThrough("options that only ConvexAdam has")
    if torch.device(device).type != "cpu" or dtype not in (torch.float16, torch.float32):
        return FallThrough("another device than the CPU, or another dtype than float32")
    images = [steps.validate_image(image).float()[None, None] for image in (img_fixed, img_moving)]
    size = images[0].shape[2:]
    if images[0].shape != images[1].shape or images[0].ndim != 5 or min(size) // max(grid_sp, grid_sp_adam) < 2:
        return FallThrough("images of other shapes than we take")
    with torch.no_grad():
        features = [mind_ssc(image, mind_r, mind_d) for image in images]
        start = _convex(features, grid_sp, disp_hw, size)
        fixed, moving = (F.avg_pool3d(feature, grid_sp_adam) for feature in features)
        del features
        low = F.interpolate(start, fixed.shape[2:], mode="trilinear", align_corners=False) / grid_sp_adam
    field = _adam(fixed, moving, low, lambda_weight, selected_niter)
    field = F.interpolate(field * grid_sp_adam, size, mode="trilinear", align_corners=False)
    return np.stack([component.numpy() for component in field[0]], 3).astype(float)


def _convex(features: Sequence[Tensor], spacing: int, radius: int, size: Sequence[int]) -> Tensor:
    """The coupled convex optimisation both ways, made consistent: (1, 3, *size) in voxels."""
    pooled = [_turned(F.avg_pool3d(feature, spacing)) for feature in features]
    found = [
        _turned(regularisation.coupled_convex(correlation(a, b, radius, smoothing=2)).flip(1))
        for a, b in (pooled, pooled[::-1])
    ]
    half = found[0].new_tensor([side // spacing - 1 for side in size]).view(1, 3, 1, 1, 1) / 2
    one, _ = inverse_consistency(*((field / half).flip(1) for field in found), iter=15)
    return F.interpolate(one.flip(1) * half * spacing, list(size), mode="trilinear", align_corners=False)


def _adam(fixed: Tensor, moving: Tensor, start: Tensor, weight: float, iterations: int) -> Tensor:
    """Adam on a field that is smoothed by three averages; that of the last step, in voxels of the features."""
    size = torch.tensor(fixed.shape[2:], dtype=torch.float32, device=fixed.device).view(1, 3, 1, 1, 1)
    # Sampled with align_corners=False, a displacement d over (size - 1) / 2 is d size / (size - 1) voxels; the layer
    # of zeros around moving, which a repeated border never leaves, makes zeros of all that is outside.
    stretch = size / (size - 1)
    framed = F.pad(moving, [1] * 6)
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=1)
    for _ in range(iterations):
        optimizer.zero_grad()
        field = box_average(parameters, passes=3, padding="zeros")
        # The mean over channels, times 12.
        loss = warp_ssd(fixed, framed, field * stretch + 1)[0].sum() * (12 / fixed.shape[1])
        # The sum over the axes.
        (loss + 3 * weight * diffusion_energy(field)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return field.detach()


__all__ = ["MINDSSC", "convex_adam_pt", "correlate", "coupled_convex", "inverse_consistency"]
