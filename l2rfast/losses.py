"""Distances between images, and what makes a displacement field smooth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from . import _check
from ._dispatch import Operator, once_differentiable
from .errors import InputError
from .kernels.warp_ssd import reference as warp_ssd_reference
from .lncc import local_ncc


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


class LocalNCCLoss(nn.Module):
    """Minus `l2rfast.local_ncc` of two images, to be minimised; the options are its own.

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
