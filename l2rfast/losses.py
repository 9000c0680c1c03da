"""Distances between images, and what makes a displacement field smooth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _check
from ._dispatch import Operator, once_differentiable
from .errors import InputError
from .histogram import joint_histogram
from .kernels.common.constants import numbers
from .kernels.energy import reference as energy
from .kernels.warp_ssd import reference as warp_ssd_reference
from .label_losses import dice, label_loss, multiscale_dice, multiscale_loss
from .lncc import REDUCTIONS, local_ncc

STENCILS = {"wide": 5, "compact": 3}  # of the bending energy, and how many voxels they take along an axis
TINY = 1e-12  # beside probabilities, before their logarithm


def _fake_warp_ssd(fixed: Tensor, moving: Tensor, disp: Tensor) -> tuple[Tensor, Tensor]:
    return disp.new_empty(disp.shape[0]), disp.new_empty(disp.shape)


def _warp_ssd_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _warp_ssd_gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, None, Tensor]:
    once_differentiable("warp_ssd")
    (gradient,) = ctx.saved_tensors
    return None, None, grad.view(-1, *[1] * (gradient.ndim - 1)) * gradient


_warp_ssd = Operator(
    warp_ssd_reference.warp_ssd,
    fake=_fake_warp_ssd,
    backward=_warp_ssd_gradient,
    setup_context=_warp_ssd_context,
)


def _fake_energy(disp: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return disp.new_empty(disp.shape[0]), disp.new_empty(disp.shape)


def _energy_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.options = len(inputs) - 1
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _energy_gradient(ctx: Any, grad: Tensor, _: Tensor) -> Any:
    once_differentiable("diffusion_energy, bending_energy, gradient_energy")
    (gradient,) = ctx.saved_tensors
    to_disp = grad.view(-1, *[1] * (gradient.ndim - 1)) * gradient
    return (to_disp, *[None] * ctx.options) if ctx.options else to_disp


_diffusion_energy, _bending_energy, _gradient_energy = (
    Operator(reference, fake=_fake_energy, backward=_energy_gradient, setup_context=_energy_context)
    for reference in (energy.diffusion_energy, energy.bending_energy, energy.gradient_energy)
)


def diffusion_energy(disp: Tensor, *, spacing: Sequence[float] | None = None) -> Tensor:
    """How much a displacement field varies: the mean squared derivative, by differences of neighbours, over all axes.

    The regulariser of VoxelMorph (Balakrishnan et al., IEEE TMI 2019, equation 6), there a mean over the axes too.

    Args:
        disp: (N, ndim, *spatial), floating, in voxels.
        spacing: of the voxels along each axis, in one unit, such as mm, in which displacements are compared with
            distances then; only how they relate to each other counts. Alike when None.

    Returns:
        A scalar, the mean over items, components and axes, in the field's dtype. Differentiable, once.

    Raises:
        InputError: a wrong shape or dtype, spacings that are not positive, or not one for each axis.
    """
    ndim = _check.field("disp", disp)
    sides = [1.0] * ndim if spacing is None else _check.each_axis(spacing, ndim)
    if len(sides) != ndim or not all(_check.is_number(side) and side > 0 for side in sides):
        raise InputError(f"spacing: expected {ndim} positive numbers, got {spacing!r}")
    field = disp.to(_check.arithmetic_dtype(disp))
    if len(set(sides)) == 1:  # which cancels
        sides = [1.0] * ndim
    else:
        sides = _near_one(sides)
        field = field * numbers(sides, field).view(-1, *[1] * ndim)
    energies: Tensor = _diffusion_energy(field, sides)[0]
    return energies.mean().to(disp.dtype)


def _near_one(sides: Sequence[float]) -> list[float]:
    """In a unit, a power of two of theirs, in which the largest is from 1/2 to 1: products of them neither over- nor
    underflow."""
    exponent = math.frexp(max(sides))[1]
    return [math.ldexp(side, -exponent) for side in sides]


def bending_energy(disp: Tensor, *, stencil: str = "wide") -> Tensor:
    """How much a displacement field bends: the mean of its squared second derivatives; affine fields have none.

    Rueckert et al., IEEE TMI 1999, equation 7.

    Args:
        disp: (N, ndim, *spatial), floating, in voxels, at least 5 of them along every axis, compact at least 3.
        stencil: of the derivatives:

            ===========  ======================================================================================
            ``wide``     central differences of central differences, two voxels from every border, as label-reg
                         (Hu et al., MedIA 2018) and MONAI before 1.6.1 have them
            ``compact``  along one axis u(x + 1) - 2 u(x) + u(x - 1), one voxel from every border, as MONAI 1.6.1;
                         unlike the wide one it sees what alternates from voxel to voxel
            ===========  ======================================================================================

    Returns:
        A scalar, the mean over items and components, in the field's dtype. Differentiable, once.

    Raises:
        InputError: a wrong shape or dtype, too few voxels, an unknown stencil.
    """
    _check.field("disp", disp)
    _check.choice("stencil", stencil, tuple(STENCILS))
    least = STENCILS[stencil]
    if min(disp.shape[2:]) < least:
        raise InputError(f"disp: expected at least {least} voxels along every axis, got shape {tuple(disp.shape)}")
    energies: Tensor = _bending_energy(disp.to(_check.arithmetic_dtype(disp)), stencil == "compact")[0]
    return energies.mean().to(disp.dtype)


def gradient_energy(disp: Tensor, *, norm: str = "l2") -> Tensor:
    """How much a displacement field varies, as label-reg has it: the sum over axes of the mean of (D u)^2, or of |D u|.

    D is a central difference, one voxel from every border (Hu et al., MedIA 2018, its public code).

    Args:
        disp: (N, ndim, *spatial), floating, in voxels, at least 3 of them along every axis.
        norm: ``"l2"`` or ``"l1"``.

    Returns:
        A scalar, the mean over items and components, in the field's dtype. Differentiable, once.

    Raises:
        InputError: a wrong shape or dtype, too few voxels, an unknown norm.
    """
    _check.field("disp", disp)
    _check.choice("norm", norm, ("l2", "l1"))
    if min(disp.shape[2:]) < 3:
        raise InputError(f"disp: expected at least 3 voxels along every axis, got shape {tuple(disp.shape)}")
    energies: Tensor = _gradient_energy(disp.to(_check.arithmetic_dtype(disp)), norm == "l1")[0]
    return energies.mean().to(disp.dtype)


def warp_ssd(fixed: Tensor, moving: Tensor, disp: Tensor) -> tuple[Tensor, Tensor]:
    """Squared differences between fixed and the warped moving image, without storing the warped image.

    Args:
        fixed: (N, C, *out) image or features, floating. Fastest in ``torch.channels_last_3d`` layout with a
            multiple of 16 channels (zero channels change nothing).
        moving: (N, C, *in) of the same dtype and layout.
        disp: (N, ndim, *out) displacement field in voxels of moving, of the same dtype.

    Returns:
        The loss (N,), the mean over voxels of the sum over channels, differentiable by disp; and its gradient,
        (N, ndim, *out), itself for optimisers that do without autograd. Border padding as in `warp`.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or a fixed or moving that requires a gradient.
    """
    ndim = _check.field("disp", disp)
    for name, image in (("fixed", fixed), ("moving", moving)):
        if _check.image(name, image) != ndim or image.shape[0] != disp.shape[0]:
            raise InputError(f"{name}, disp: expected shapes that fit, got {tuple(image.shape)}, {tuple(disp.shape)}")
        _check.same(f"{name}, disp", image, disp, shape=False)
        if image.requires_grad:
            raise InputError(f"{name}: no gradient to it is implemented; detach it")
    if fixed.shape[2:] != disp.shape[2:] or fixed.shape[1] != moving.shape[1]:
        raise InputError(
            f"fixed: expected the channels of moving and the spatial shape of disp, got {tuple(fixed.shape)}"
        )
    dtype = _check.arithmetic_dtype(disp)
    loss, gradient = _warp_ssd(fixed.to(dtype), moving.to(dtype), disp.to(dtype))
    return loss.to(disp.dtype), gradient.to(disp.dtype)


def mutual_information(
    a: Tensor,
    b: Tensor,
    *,
    bins: int = 32,
    window: str = "cubic",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """How much the intensities of one image tell of those of the other, whatever the relation: for two modalities.

        sum over bins of p(i, j) log(p(i, j) / (p(i) p(j)))

    in nats: 0 for images that have nothing to do with each other, more the more alike (Viola and Wells, IJCV 1997). p
    is `l2rfast.joint_histogram`. What keeps its logarithm finite, 1e-12, is beside probabilities and knows no unit of
    intensities.

    Args:
        a, b: (N, *any) images of one shape, floating, intensities from 0 to 1; what lies outside counts as 0 or 1, so
            that images in HU or of 12 bits are to be scaled first.
        bins: for each image, at least 4.
        window: ``"cubic"``: cubic B-splines (Mattes et al., IEEE TMI 2003); 0 and 1 lie on the second bin and on the
            last but one, so that no window is cut. ``"gaussian"``: Gaussians with a standard deviation of half a bin
            (Guo, Multi-modal image registration with unsupervised deep learning, MIT 2019), 0 and 1 on the outer bins.
        weight: of every voxel, in the shape of the images, numbers not below 0 or bool. None: 1.
        reduction: over the items, ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or with ``reduction="none"`` the value of every item, (N,), in the images' dtype. Differentiable once,
        in a and b.

    Raises:
        InputError: shapes, dtypes or devices that differ, a parameter out of range, a weight that requires a gradient.
    """
    bins = _check.at_least("bins", bins, 4)
    _check.choice("window", window, ("cubic", "gaussian"))
    _check.choice("reduction", reduction, REDUCTIONS)
    _check.tensor("a", a)
    _check.tensor("b", b)
    places = [image.to(_check.arithmetic_dtype(image)) for image in (a, b)]
    if window == "cubic":
        places = [_held(1 + (bins - 3) * image, 1.0, bins - 2.0) for image in places]
    else:  # the histogram itself takes what lies beyond its bins to the outer ones
        places = [(bins - 1) * image for image in places]
    joint = joint_histogram(*places, bins=bins, window=window, weight=weight)
    apart = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    items = (joint * ((joint + TINY) / (apart + TINY)).log()).sum((1, 2))
    reduced: Tensor = items if reduction == "none" else getattr(items, reduction)()
    return reduced.to(a.dtype)


def _held(x: Tensor, low: float, high: float) -> Tensor:
    """Between two ends, where what lies at an end has its gradient: clamp gives it none from PyTorch 2.14 on."""
    return torch.where(x < low, low, torch.where(x > high, high, x))


class LocalNCCLoss(nn.Module):
    """Minus `l2rfast.local_ncc` of two images, to be minimised; the options are its own, eps on its scale too.

    Called as ``loss(a, b)`` or ``loss(a, b, mask)``.
    """

    def __init__(
        self,
        *,
        window: int | Sequence[int] = 9,
        weighting: str = "box",
        reduction: str = "mean",
        eps: float = 1e-5,
        border: str = "zeros",
        semantics: str = "voxelmorph",
        smooth_nr: float = 0.0,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "window": window,
            "weighting": weighting,
            "reduction": reduction,
            "eps": eps,
            "border": border,
            "semantics": semantics,
            "smooth_nr": smooth_nr,
        }

    def forward(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
        return -local_ncc(a, b, mask=mask, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


__all__ = [
    "LocalNCCLoss",
    "bending_energy",
    "dice",
    "diffusion_energy",
    "gradient_energy",
    "label_loss",
    "multiscale_dice",
    "multiscale_loss",
    "mutual_information",
    "warp_ssd",
]
