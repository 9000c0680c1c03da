"""Alignment by what each image says alone: where its first label is, and how large.

With few cases a network that sees both images at once learns them by heart: it can tell the pairs apart. Two networks
that see one image each, and say where the label is, cannot. What they say is aligned by its moments: centroids meet,
and standard deviations along the axes become the same. The moments are differentiable, so that the loss of the
registration trains the two networks as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nets import NORMS, Plan, affine_field

DEPTH = 3  # levels below the first
CONFIDENT = 0.5  # of less nothing counts as label: far away it would move the moments
LIMITS = (0.5, 2.0)  # of the ratio of sizes


class _Twice(nn.Sequential):
    """Two convolutions, each normalised in groups of four channels."""

    def __init__(self, plan: Plan, channels: int, out: int) -> None:
        kind = nn.Conv3d if plan.ndim == 3 else nn.Conv2d
        layers: list[nn.Module] = []
        for inputs in (channels, out):
            layers += [kind(inputs, out, 3, padding=1), nn.GroupNorm(max(1, out // 4), out), nn.LeakyReLU(0.1)]
        super().__init__(*layers)


class LabelMap(nn.Module):
    """A U-Net: (N, 1, *spatial) -> the logit of the label at every voxel, likewise."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        widths = [plan.width * min(2**level, 4) for level in range(DEPTH + 1)]
        self.down = nn.ModuleList(_Twice(plan, i, o) for i, o in zip([1, *widths], widths, strict=False))
        outs = [widths[max(level - 1, 0)] for level in reversed(range(DEPTH))]
        wide = [
            above + widths[level] for above, level in zip([widths[-1], *outs], reversed(range(DEPTH)), strict=False)
        ]
        self.up = nn.ModuleList(_Twice(plan, i, o) for i, o in zip(wide, outs, strict=True))
        self.out = (nn.Conv3d if plan.ndim == 3 else nn.Conv2d)(outs[-1], 1, 1)
        if plan.ndim == 3:  # the order of memory in which these convolutions are faster
            self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        pool = F.max_pool3d if x.ndim == 5 else F.max_pool2d
        mode = "trilinear" if x.ndim == 5 else "bilinear"
        kept: list[Tensor] = []
        for level, layer in enumerate(self.down):
            x = layer(x if level == 0 else pool(x, 2, ceil_mode=True))
            kept.append(x)
        x = kept.pop()
        for layer in self.up:
            beside = kept.pop()
            x = layer(torch.cat([F.interpolate(x, size=beside.shape[2:], mode=mode), beside], 1))
        logit: Tensor = self.out(x)
        return logit.float() if logit.dtype.itemsize == 2 else logit  # which autocast may have narrowed


class MomentsNet(nn.Module):
    """A translation and a scaling along the axes, from two label maps.

    Args:
        plan: its ``width`` and ``ndim`` count.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan = plan or Plan(width=12)
        assert plan.norm in NORMS
        self.of_moving, self.of_fixed = LabelMap(plan), LabelMap(plan)

    def maps(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the first label in both images."""
        return self.of_moving(moving), self.of_fixed(fixed)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """As `LocalNet.forward`."""
        return self.field(*self.maps(moving, fixed))

    @staticmethod
    def field(of_moving: Tensor, of_fixed: Tensor) -> Tensor:
        """The field of two maps, on the grid of the second."""
        return affine_field(MomentsNet.matrix(of_moving, of_fixed), of_fixed.shape[2:])

    @staticmethod
    def matrix(of_moving: Tensor, of_fixed: Tensor) -> Tensor:
        """(N, ndim, ndim + 1): voxel of the second map -> voxel of the first."""
        (to, large), (at, small) = _moments(of_moving), _moments(of_fixed)
        ratio = (large / small).clamp(*LIMITS)
        return torch.cat([torch.diag_embed(ratio), (to - ratio * at)[..., None]], 2)


def _moments(logit: Tensor) -> tuple[Tensor, Tensor]:
    """The centroid and the standard deviations along the axes, (N, ndim) each, of the probability of a label."""
    probability = torch.sigmoid(logit)
    weights = (probability * (probability > CONFIDENT) + 1e-6).flatten(1)
    weights = weights / weights.sum(1, keepdim=True)
    axes = [torch.arange(s, dtype=logit.dtype, device=logit.device) for s in logit.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    centre = weights @ places.T
    variance = weights @ places.square().T - centre.square()
    return centre, variance.clamp(min=0.25).sqrt()
