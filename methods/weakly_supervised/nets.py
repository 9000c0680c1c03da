"""label-reg's networks: two images in, the displacement field from fixed to moving voxels out.

Hu et al., Medical Image Analysis 2018, figures 2 and 3, and its public code. All three take moving on a grid of its
own, and see it resized to the fixed grid. A field is in voxels of moving, at fixed index + displacement, as there: a
field of zeros crops or extends moving to the fixed size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2rfast import _check, affine_warp, warp
from l2rfast.errors import InputError
from l2rfast.kernels.common.constants import numbers

from ..options import make_plain

NORMS = ("batch-as-published", "instance", "group")
LEVELS = 4  # below the full resolution
COARSEST = 2**LEVELS  # voxels along an axis that are one at the last of them


@dataclass(frozen=True)
class Plan:
    """What a network is made of.

    Attributes:
        ndim: 2 or 3.
        width: channels at the first level, doubled at each of the next four. Published: 32, of GlobalNet 8.
        norm: ``"batch-as-published"``, the statistics of the batch in use as in training, with a shift and no scale;
            ``"instance"``; or ``"group"``, of eight channels each. The last two do not depend on the batch.
        out_levels: levels whose fields are added up. Published: all; in CompositeNet 0 alone.
    """

    ndim: int = 3
    width: int = 32
    norm: str = "instance"
    out_levels: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        make_plain(self)
        if self.ndim not in (2, 3):
            raise InputError(f"ndim: expected 2 or 3, got {self.ndim!r}")
        if not _check.is_integer(self.width) or self.width < 1:
            raise InputError(f"width: expected a positive integer, got {self.width!r}")
        if self.norm not in NORMS:
            raise InputError(f"norm: expected one of {', '.join(NORMS)}, got {self.norm!r}")
        if not self.out_levels or not set(self.out_levels) <= set(range(LEVELS + 1)):
            raise InputError(f"out_levels: expected levels from 0 to {LEVELS}, got {self.out_levels!r}")

    @property
    def widths(self) -> list[int]:
        return [self.width * 2**level for level in range(LEVELS + 1)]


def resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Linear, voxel i from i * old / new, the border repeated: TensorFlow's first convention."""
    if list(image.shape[2:]) == list(size):
        return image
    ndim = image.ndim - 2
    steps = numbers([old / new for old, new in zip(image.shape[2:], size, strict=True)], image)
    matrix = torch.cat([torch.diag(steps), steps.new_zeros(ndim, 1)], 1)
    return affine_warp(image, matrix[None], size)


def groups(channels: int, each: int) -> int:
    """Of about so many channels each: the most that divide them evenly, and are no smaller."""
    return next(count for count in range(max(1, channels // each), 0, -1) if channels % count == 0)


class _Norm(nn.Module):
    """The normalisation of a plan: to mean 0 and variance 1, and a shift."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm = norm
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm == "batch-as-published":
            x = F.batch_norm(x, None, None, training=True, eps=1e-3)
        else:
            x = F.group_norm(x, x.shape[1] if self.norm == "instance" else groups(x.shape[1], 8), eps=1e-3)
        return x + self.shift.view(-1, *[1] * (x.ndim - 2))


class _Block(nn.Module):
    """A convolution without bias, then normalisation; ReLU is the caller's."""

    def __init__(self, plan: Plan, channels: int, out: int, kernel: int = 3, *, transposed: bool = False) -> None:
        super().__init__()
        kinds = {
            (2, False): nn.Conv2d,
            (3, False): nn.Conv3d,
            (2, True): nn.ConvTranspose2d,
            (3, True): nn.ConvTranspose3d,
        }
        options: dict[str, Any] = {"stride": 2} if transposed else {"padding": kernel // 2}
        self.conv = kinds[plan.ndim, transposed](channels, out, kernel, bias=False, **options)
        nn.init.xavier_uniform_(self.conv.weight)
        self.norm = _Norm(out, plan.norm)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """``size``: of the image that a transposed convolution is to make."""
        y = self.conv(x)
        if size is not None:
            # As TensorFlow crops: what is too much behind, and if that is two voxels, one of them before.
            for axis, s in enumerate(size, 2):
                y = y.narrow(axis, (y.shape[axis] - s) // 2, s)
        result: Tensor = self.norm(y)
        return result


class _Down(nn.Module):
    def __init__(self, plan: Plan, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__()
        self.first = _Block(plan, channels, out, kernel)
        self.second = _Block(plan, out, out)
        self.third = _Block(plan, out, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What goes down, and what goes across."""
        across = F.relu(self.first(x))
        x = F.relu(self.third(F.relu(self.second(across))) + across)
        pool = F.max_pool3d if x.ndim == 5 else F.max_pool2d
        return pool(x, 2, ceil_mode=True), across


class _Up(nn.Module):
    def __init__(self, plan: Plan, channels: int, out: int) -> None:
        super().__init__()
        self.first = _Block(plan, channels, out, transposed=True)
        self.second = _Block(plan, out, out)
        self.third = _Block(plan, out, out)

    def forward(self, x: Tensor, across: Tensor) -> Tensor:
        size = across.shape[2:]
        # Additive upsampling: the image, resized, with one half of its channels added to the other.
        low, high = resized(x, size).chunk(2, 1)
        up = F.relu(self.first(x, size)) + low + high
        return F.relu(self.third(F.relu(self.second(up))) + up + across)


def _descent(plan: Plan) -> nn.ModuleList:
    inputs = [2, *plan.widths]
    return nn.ModuleList(_Down(plan, inputs[i], plan.widths[i], 7 if i == 0 else 3) for i in range(LEVELS))


class LocalNet(nn.Module):
    """A dense displacement field, the sum of those of five resolutions."""

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan = plan or Plan()
        widths = plan.widths
        self.down = _descent(plan)
        self.deep = _Block(plan, widths[-2], widths[-1])
        self.up = nn.ModuleList(_Up(plan, widths[level + 1], widths[level]) for level in reversed(range(LEVELS)))
        kind = nn.Conv3d if plan.ndim == 3 else nn.Conv2d
        self.out = nn.ModuleDict(
            {str(level): kind(widths[level], plan.ndim, 3, padding=1) for level in plan.out_levels}
        )
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Args:
            moving: (N, 1, *moving), floating.
            fixed: (N, 1, *fixed), of the same dtype.

        Returns:
            (N, ndim, *fixed) displacement field in voxels of moving.
        """
        _check_images(self.plan, moving, fixed)
        size, across, levels = fixed.shape[2:], [], {}
        x = torch.cat([resized(moving, size), fixed], 1)
        for down in self.down:
            x, kept = down(x)
            across.append(kept)
        levels[LEVELS] = x = F.relu(self.deep(x))
        for level, up in zip(reversed(range(LEVELS)), self.up, strict=True):
            levels[level] = x = up(x, across[level])
        fields = [resized(self.out[str(level)](levels[level]).to(fixed.dtype), size) for level in self.plan.out_levels]
        return torch.stack(fields).sum(0)


class GlobalNet(nn.Module):
    """An affine map, as the displacement field that it is.

    Args:
        size: of the fixed images, which is the same in every call, as a fully connected layer sees all of them.
        plan: the published one unless told.
    """

    def __init__(self, size: Sequence[int], plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan = plan or Plan(width=8)
        self.size = tuple(size)
        if len(self.size) != plan.ndim or min(self.size) < 2:
            raise InputError(f"size: expected {plan.ndim} sizes of at least 2, got {self.size}")
        self.down = _descent(plan)
        self.deep = _Block(plan, plan.widths[-2], plan.widths[-1])
        features = plan.widths[-1] * math.prod(-(-s // 2**LEVELS) for s in self.size)
        self.affine = nn.Linear(features, plan.ndim * (plan.ndim + 1))
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.eye(plan.ndim, plan.ndim + 1).flatten())

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """As `LocalNet.forward`."""
        return affine_field(self.matrix(moving, fixed), fixed.shape[2:])

    def matrix(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """(N, ndim, ndim + 1): fixed voxel -> moving voxel."""
        ndim = self.plan.ndim
        _check_images(self.plan, moving, fixed)
        if tuple(fixed.shape[2:]) != self.size:
            raise InputError(f"fixed: expected the size {self.size}, got {tuple(fixed.shape[2:])}")
        x = torch.cat([resized(moving, self.size), fixed], 1)
        for down in self.down:
            x, _ = down(x)
        values: Tensor = self.affine(F.relu(self.deep(x)).flatten(1)).to(fixed.dtype)
        return values.view(-1, ndim, ndim + 1)


class CompositeNet(nn.Module):
    """GlobalNet, then LocalNet on what it aligned; their displacements are added up.

    With ``"batch-as-published"`` LocalNet sees what the published resampler makes of moving: 0 outside, without the
    fall over a voxel that ``warp(padding="zeros")`` has there, and on the last plane of every axis.

    Args:
        size: see `GlobalNet`.
        plan: of the LocalNet; published with level 0 alone.
        global_plan: of the GlobalNet.
    """

    def __init__(self, size: Sequence[int], plan: Plan | None = None, global_plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan or Plan(out_levels=(0,))
        self.coarse = GlobalNet(size, global_plan or Plan(self.plan.ndim, 8, self.plan.norm))
        self.fine = LocalNet(self.plan)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """As `LocalNet.forward`."""
        field: Tensor = self.coarse(moving, fixed)
        aligned = warp(moving, field, padding="zeros")
        if self.plan.norm == "batch-as-published":
            aligned = aligned * _sampled(field, moving.shape[2:])
        result: Tensor = field + self.fine(aligned, fixed)
        return result


def _sampled(field: Tensor, size: Sequence[int]) -> Tensor:
    """Where the published resampler gives anything of an image of that size: (N, 1, *spatial), booleans.

    Outside, and on the last plane of every axis, the two neighbours along that axis are one voxel to it, and their
    weights cancel.
    """
    last = field.new_tensor([s - 1 for s in size]).view(-1, *[1] * len(size))
    places = _indices(field.shape[2:], field) + field
    return ((places >= 0) & (places < last)).all(1, keepdim=True)


def _indices(size: Sequence[int], like: Tensor) -> Tensor:
    """(ndim, *size): of every voxel."""
    axes = [torch.arange(s, dtype=like.dtype, device=like.device) for s in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def affine_field(matrix: Tensor, size: Sequence[int]) -> Tensor:
    """The displacement field of an affine map of voxels: (N, ndim, ndim + 1) -> (N, ndim, *size)."""
    places = _indices(size, matrix)
    ndim = len(size)
    linear = matrix[:, :, :ndim] - torch.eye(ndim, dtype=matrix.dtype, device=matrix.device)
    return (linear @ places.flatten(1) + matrix[:, :, ndim:]).view(-1, ndim, *size)


def _check_images(plan: Plan, moving: Tensor, fixed: Tensor) -> None:
    ndim = plan.ndim
    for name, image in (("moving", moving), ("fixed", fixed)):
        if image.ndim != ndim + 2 or image.shape[1] != 1 or not image.numel() or not image.is_floating_point():
            shape = f"(N, 1, {'D, ' * (ndim - 2)}H, W)"
            raise InputError(f"{name}: expected floating {shape}, got {image.dtype} {tuple(image.shape)}")
    if moving.shape[0] != fixed.shape[0] or moving.dtype != fixed.dtype or moving.device != fixed.device:
        raise InputError("moving, fixed: expected one batch size, dtype and device")
    alone = plan.norm == "instance" or (plan.norm == "batch-as-published" and len(fixed) == 1)
    if alone and max(fixed.shape[2:]) <= COARSEST:  # at the coarsest level one voxel, of which the norm makes 0
        size = " x ".join(map(str, fixed.shape[2:]))
        raise InputError(
            f"fixed: expected more than {COARSEST} voxels along an axis, as the network sees it, or the norm group, "
            f"got {size}"
        )
