"""Features of an image at a third of its resolution, by which PDD-Net compares places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2rfast import affine_warp
from l2rfast.correlation import lattice
from l2rfast.kernels.common.constants import numbers

THIRD = 3
PAIRS = 48  # of places that OBELISK subtracts
COARSE = 4  # channels that it samples


def third(size: torch.Size | list[int]) -> list[int]:
    return [s // THIRD for s in size]


class Obelisk(nn.Module):
    """Differences of a coarse image between learned places around every point (Heinrich et al., MedIA 2019).

    As published for PDD-Net: no normalisation but that of batches.

    Args:
        channels: of the features.
        align_corners: whether -1 and 1, between which offsets are given, are the centres of the border voxels, as
            before PyTorch 1.3, or their outer edges.
    """

    def __init__(self, channels: int = 24, *, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.offsets = nn.Parameter(0.05 * torch.randn(2, PAIRS, 3))  # x, y, z, from -1 to 1
        self.layer0 = nn.Conv3d(1, COARSE, 5, stride=2, padding=2, bias=False)
        self.batch0 = nn.BatchNorm3d(COARSE)
        self.layer1 = nn.Conv3d(COARSE * PAIRS, 48, 1, bias=False, groups=COARSE)
        self.batch1 = nn.BatchNorm3d(48)
        self.layer2 = nn.Conv3d(48, 48, 3, padding=1, bias=False)
        self.batch2 = nn.BatchNorm3d(48)
        self.layer3 = nn.Conv3d(48, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, D, H, W) -> (N, channels, D // 3, H // 3, W // 3)."""
        size = third(image.shape[2:])
        coarse = F.relu(self.batch0(self.layer0(F.avg_pool3d(image, 3, stride=2, padding=1))))
        x = self._differences(coarse, size).contiguous(memory_format=torch.channels_last_3d)
        x = F.relu(self.batch1(self.layer1(x)))
        x = F.relu(self.batch2(self.layer2(x)))
        features: Tensor = self.layer3(x).contiguous()
        return features

    def _differences(self, coarse: Tensor, size: list[int]) -> Tensor:
        """(N, COARSE * PAIRS, *size). A lattice that an offset moves is an affine map of its indices: no grid."""
        sides = coarse.shape[2:]
        # Control points are all of the lattice; the displacements do not count.
        points = lattice(sides, size, 1, 0.0, self.align_corners).points
        start = numbers([p[0] for p in points], self.offsets)
        step = numbers([p[1] - p[0] if len(p) > 1 else 0.0 for p in points], self.offsets)
        unit = numbers([(s - 1) / 2 if self.align_corners else s / 2 for s in sides], self.offsets)
        linear = torch.diag(step)
        places = start + unit * self.offsets.flip(-1)

        def sampled(place: Tensor) -> Tensor:
            matrix = torch.cat([linear, place[:, None]], 1).to(coarse.dtype)
            return affine_warp(coarse, matrix.expand(len(coarse), 3, 4), size, padding="zeros")

        pairs = [sampled(a) - sampled(b) for a, b in zip(*places, strict=True)]
        return torch.stack(pairs, 2).flatten(1, 2)


class PlainFeatures(nn.Sequential):
    """Convolutions alone, the first of stride 3; they behave the same in training and in use.

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int = 24) -> None:
        layers: list[nn.Module] = []
        # So padded that the first is about the centre of each block of three voxels a side.
        for inputs, outputs, size, stride in ((1, 16, 5, THIRD), (16, 32, 3, 1), (32, 32, 3, 1)):
            layers += [nn.Conv3d(inputs, outputs, size, stride, 1), nn.GroupNorm(4, outputs), nn.LeakyReLU(0.1)]
        super().__init__(*layers, nn.Conv3d(32, channels, 1))
