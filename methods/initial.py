"""Initialisation: a rigid or affine map of the world that brings moving near fixed, found over a few resolutions.

A map takes places of fixed to places of moving: y = L (x - c) + c + t in mm, c the centre of what is in fixed. It is
found by Adam on numbers of which the exponential is L, the gradient through `l2rfast.affine_warp`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast import affine_warp, local_ncc, mind_ssc
from l2rfast.errors import InputError
from l2rfast.io import Volume, voxel_to_voxel
from l2rfast.losses import mutual_information

from .stages import Stages

KINDS = ("none", "moments", "rigid", "affine")
AUTO = "auto"
WIDEST_ANGLE, LEAST_OVERLAP = 10.0, 0.5  # in degrees, and of the fixed grid: what headers that agree have

# How many cells there are along the longest side, and by how many mm Adam moves, for each resolution.
LEVELS = ((24, 3.0), (48, 1.0))
STEPS = 60  # of each resolution
BINS = 32  # of the histograms of mutual information
WINDOW = 5  # of the local NCC, cells
LEAST_CONTRAST = 0.1  # to the background, of the range of intensities
LEAST_LEFT = 0.05  # of the fixed grid that moving has to cover

# Of warped moving, (1, C, *spatial), and the weight of every voxel, (1, 1, *spatial), to a fixed image.
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Initial:
    """Where a registration starts.

    Attributes:
        kind: one of ``"none"``, ``"moments"``, ``"rigid"``, ``"affine"``.
        why: in words.
        matrix: (4, 4): place of fixed -> place of moving, in mm.
    """

    kind: str
    why: str
    matrix: np.ndarray

    def moved(self, moving: Volume) -> Volume:
        """Moving where the map puts it: with a header by which it lies on fixed."""
        return Volume(moving.data, np.linalg.solve(self.matrix, moving.affine))


NO_CHANGE = Initial("none", "asked for", np.eye(4))


def initialise(fixed: Volume, moving: Volume, kind: str, metric: str, device: torch.device, stages: Stages) -> Initial:
    """Find where a registration is to start.

    Args:
        fixed, moving: 2-D or 3-D.
        kind: ``"none"``; ``"moments"``: the centres of what is in them meet; ``"rigid"``; ``"affine"``; or ``"auto"``:
            none where the headers agree, else affine.
        metric: ``"mi"`` (mutual information), ``"lncc"`` or ``"mind"``.
        device: where to compute.
        stages: times it.

    Raises:
        InputError: an unknown kind or metric, or images that it cannot align.
    """
    if kind not in (AUTO, *KINDS):
        raise InputError(f"init: expected one of {', '.join((AUTO, *KINDS))}, got {kind!r}")
    if metric not in METRICS:
        raise InputError(f"init_metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    why = "asked for"
    if kind == AUTO:
        apart = _disagreement(fixed, moving)
        kind, why = ("affine", apart) if apart else ("none", "the headers agree")
    if kind == "none":
        return replace(NO_CHANGE, why=why)
    with stages.stage("initialisation"):
        return Initial(kind, why, _found(fixed, moving, kind, metric, device, stages))


def _disagreement(fixed: Volume, moving: Volume) -> str:
    """How the headers disagree, in words; nothing where they do not."""
    ndim = fixed.data.ndim
    turn = np.linalg.inv(_directions(moving, ndim)) @ _directions(fixed, ndim)
    # Up to axes that are stored in another order or direction: the affines account for it.
    nearest = np.zeros_like(turn)
    for k in range(ndim):
        j = int(np.abs(turn[k]).argmax())
        nearest[k, j] = np.sign(turn[k, j])
    cosine = (np.trace(turn @ nearest.T) - (ndim - 2)) / 2
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if angle > WIDEST_ANGLE:
        return f"the headers are {angle:.0f} degrees apart"
    axes = [np.linspace(0, s - 1, 8) for s in fixed.data.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(ndim, -1)
    matrix = voxel_to_voxel(fixed.affine, moving.affine, ndim)
    reached = matrix[:, :ndim] @ points + matrix[:, ndim:]
    ends = np.array(moving.data.shape)[:, None] - 1
    overlap = float(((reached >= 0) & (reached <= ends)).all(0).mean())
    if overlap < LEAST_OVERLAP:
        return f"moving covers {100 * overlap:.0f} % of the fixed grid"
    return ""


def _directions(volume: Volume, ndim: int) -> np.ndarray:
    """Rotation nearest to the axes of a grid."""
    u, _, v = np.linalg.svd(volume.affine[:ndim, :ndim] / np.array(volume.spacing[:ndim]))
    rotation: np.ndarray = u @ v
    return rotation


@torch.enable_grad()
def _found(fixed: Volume, moving: Volume, kind: str, metric: str, device: torch.device, stages: Stages) -> np.ndarray:
    ndim = fixed.data.ndim
    images = [(_scaled(name, v, device), _affine(v, ndim)) for name, v in (("fixed", fixed), ("moving", moving))]
    centres = [_centre(*image) for image in images]
    numbers = torch.zeros(ndim, ndim + 1, dtype=torch.float64)  # in mm
    numbers[:, ndim] = centres[1] - centres[0]
    numbers.requires_grad_()
    extent = max(s * mm for s, mm in zip(fixed.data.shape, fixed.spacing, strict=True))

    def world() -> Tensor:
        """(ndim + 1, ndim + 1). Numbers of the linear part move by so many mm what is a quarter of the extent away."""
        linear = numbers[:, :ndim] / (extent / 4)
        linear = torch.matrix_exp(linear if kind == "affine" else (linear - linear.T) / 2)
        offset = centres[0] + numbers[:, ndim] - linear @ centres[0]
        last = torch.eye(ndim + 1, dtype=linear.dtype)[-1:]
        return torch.cat([torch.cat([linear, offset[:, None]], 1), last])

    steps = 0 if kind == "moments" else STEPS
    features, to = METRICS[metric]
    for i, (cells, rate) in enumerate(LEVELS):
        (at, from_voxels), (source, to_voxels) = (_pooled(*image, extent / cells) for image in images)
        size = at.shape[2:]
        if features is not None:  # which turn with the image: of moving as it lies by now
            start = (world() @ from_voxels).detach()
            matrix = torch.linalg.solve(to_voxels, start)[None, :ndim].to(device, at.dtype)
            at, source, to_voxels = features(at), features(affine_warp(source, matrix, size)), start
        distance = to(at)
        ones = torch.ones_like(source[:, :1])
        optimizer = torch.optim.Adam([numbers], rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * 0.1 ** (step / steps)
            matrix = torch.linalg.solve(to_voxels, world() @ from_voxels)[None, :ndim].to(device, at.dtype)
            inside = affine_warp(ones, matrix.detach(), size, padding="zeros")
            if float(inside.mean()) < LEAST_LEFT:
                raise InputError("init: expected images that can be aligned, but hardly anything of them overlaps")
            optimizer.zero_grad()
            torch.autograd.backward(distance(affine_warp(source, matrix, size), inside))
            optimizer.step()
            stages.advance((i * steps + step + 1) / (len(LEVELS) * steps))
    result = np.eye(4)
    found = world().detach().numpy()
    result[:ndim, :ndim], result[:ndim, 3] = found[:ndim, :ndim], found[:ndim, ndim]
    return result


def _affine(volume: Volume, ndim: int) -> Tensor:
    """(ndim + 1, ndim + 1): voxel -> mm."""
    keep = [*range(ndim), 3]
    return torch.from_numpy(volume.affine[np.ix_(keep, keep)]).double()


def _scaled(name: str, volume: Volume, device: torch.device) -> Tensor:
    """(1, 1, *spatial) from 0 to 1, the brightest thousandth cut off."""
    image = volume.data.to(device, torch.float32)[None, None]
    some = image.flatten()[:: max(1, image.numel() // 100_000)]
    low, high = (float(torch.quantile(some, q)) for q in (0.0, 0.999))
    if not high > low:
        raise InputError(f"{name}: expected an image, but it is constant")
    return ((image - low) / (high - low)).clamp(0, 1)


def _centre(image: Tensor, affine: Tensor) -> Tensor:
    """In mm, of what differs from the background, which is what most of the border is; so in any contrast."""
    x = image[0, 0]
    border = torch.cat([x.select(axis, end).flatten() for axis in range(x.ndim) for end in (0, -1)])
    body = ((x - border.median()).abs() > LEAST_CONTRAST).double().cpu()
    if not body.any():
        body = torch.ones_like(body)
    centre = []
    for axis, size in enumerate(body.shape):
        profile = body.sum([k for k in range(body.ndim) if k != axis])
        centre.append((profile * torch.arange(size)).sum() / profile.sum())
    return affine[:-1, :-1] @ torch.stack(centre) + affine[:-1, -1]


def _pooled(image: Tensor, affine: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Averages over about that many mm along every axis, and their affine."""
    sides = affine[:-1, :-1].norm(dim=0).tolist()
    factors = [min(max(1, round(spacing / side)), s) for side, s in zip(sides, image.shape[2:], strict=True)]
    pool = F.avg_pool3d if image.ndim == 5 else F.avg_pool2d
    blocks = torch.eye(len(factors) + 1, dtype=torch.float64)
    for k, factor in enumerate(factors):
        blocks[k, k], blocks[k, -1] = factor, (factor - 1) / 2
    return pool(image, factors), affine @ blocks


def _mutual(fixed: Tensor) -> Distance:
    return lambda moving, inside: -mutual_information(fixed, moving, bins=BINS, weight=inside)


def _local(fixed: Tensor) -> Distance:
    return lambda moving, inside: -local_ncc(fixed, moving, window=WINDOW, mask=inside > 0.5)


def _squares(fixed: Tensor) -> Distance:
    return lambda moving, inside: ((moving - fixed).square() * inside).mean() / inside.mean()


# By name, what is compared where it is not the image, and how.
METRICS: dict[str, tuple[Callable[[Tensor], Tensor] | None, Callable[[Tensor], Distance]]] = {
    "mi": (None, _mutual),
    "lncc": (None, _local),
    "mind": (partial(mind_ssc, radius=1, dilation=1), _squares),
}
