"""What the methods are made of, of PyTorch's operations and the layers that people use with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast.methods.discrete.features import Obelisk
from l2rfast.methods.unsupervised import VoxelMorph

SLOPE = 0.2


def field(network: VoxelMorph, moving: Tensor, fixed: Tensor) -> Tensor:
    """What its last convolution gives, every upsampled image stored."""
    ndim, depth = network.architecture.ndim, len(network.architecture.encoder)
    x = torch.cat([moving, fixed], 1).contiguous(memory_format=torch.channels_last_3d)
    skips = [x]
    for down in network.encoder:
        skips.append(F.leaky_relu(down(F.pad(skips[-1], [0, 1] * ndim)), SLOPE))
    x = skips.pop()
    for i, layer in enumerate(network.decoder):
        if 0 < i < depth or i == depth + 1:
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], 1)
        x = F.leaky_relu(layer(x), SLOPE)
    result: Tensor = network.field(x).contiguous()
    return result


def diffusion(disp: Tensor) -> Tensor:
    """VoxelMorph's: the mean squared difference of neighbours, over the axes."""
    return torch.stack([disp.diff(dim=axis).square().mean() for axis in range(2, disp.ndim)]).mean()


def _central(u: Tensor, axis: int) -> Tensor:
    """Of what lies on both sides: one voxel is lost at both ends."""
    n = u.shape[axis] - 2
    return (u.narrow(axis, 2, n) - u.narrow(axis, 0, n)) / 2


def bending(disp: Tensor) -> Tensor:
    """label-reg's: the sum of the squared second derivatives, mixed ones twice, its mean over components and voxels."""
    total = disp.new_zeros(())
    for k in range(2, disp.ndim):
        first = _central(disp, k)
        for m in range(k, disp.ndim):
            second = _central(first, m)
            for axis in range(2, disp.ndim):
                margin = 2 - (axis == k) - (axis == m)
                second = second.narrow(axis, margin, second.shape[axis] - 2 * margin)
            total = total + (1 if k == m else 2) * second.square().mean()
    return total


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Three convolutions of one axis each, zeros outside, the taps cut at three sigma."""
    reach = int(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device) / sigma) ** 2)
    taps = taps / taps.sum()
    flat = image.flatten(0, 1)[:, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(taps), reach
        flat = F.conv3d(flat, taps.view(shape), padding=padding)
    return flat[:, 0].view_as(image)


def multiscale_dice(a: Tensor, b: Tensor, sigmas: Sequence[float]) -> Tensor:
    """label-reg's loss."""
    scales = []
    for sigma in sigmas:
        x, y = (gaussian(image, sigma) if sigma else image for image in (a, b))
        both, sums = ((v.flatten(2).sum(2)) for v in (x * y, x + y))
        scales.append(1 - (2 * both / sums).mean())
    return torch.stack(scales).mean()


def resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """As `l2rfast.methods.weakly_supervised.nets.resized`, of a grid in memory."""
    old = image.shape[2:]
    if list(old) == list(size):
        return image
    # Voxel i from i * old / new: of the coordinates from -1 to 1 between the centres of the border voxels.
    axes = [
        torch.arange(n, dtype=image.dtype, device=image.device) * (2 * o / n / max(o - 1, 1)) - 1
        for n, o in zip(size, old, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1).expand(image.shape[0], *size, 3)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def obelisk(features: Obelisk, image: Tensor) -> Tensor:
    """Those features as published: a grid of every place that is sampled."""
    size = [s // 3 for s in image.shape[2:]]
    coarse = F.relu(features.batch0(features.layer0(F.avg_pool3d(image, 3, stride=2, padding=1))))
    corners = features.align_corners
    grid = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *size], align_corners=corners).view(1, 1, -1, 1, 3)
    sampled = [
        F.grid_sample(coarse, grid + offsets.view(1, -1, 1, 1, 3), padding_mode="zeros", align_corners=corners)
        for offsets in features.offsets
    ]
    x = (sampled[0] - sampled[1]).view(1, -1, *size)
    x = F.relu(features.batch1(features.layer1(x)))
    x = F.relu(features.batch2(features.layer2(x)))
    result: Tensor = features.layer3(x)
    return result
