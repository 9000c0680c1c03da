"""Averages over blocks of voxels: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def block_average(image: Tensor, blocks: Sequence[int]) -> Tensor:
    """image (N, C, *spatial) -> (N, C, *spatial // blocks); what fills no block at the end is left out."""
    return (F.avg_pool3d if image.ndim == 5 else F.avg_pool2d)(image, list(blocks))
