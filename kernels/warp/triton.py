"""Warping by a displacement field, in Triton."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..common import triton_samplers as samplers


def warp(image: Tensor, disp: Tensor, mode: str, padding: str) -> Tensor:
    """image (N, C, *in), disp (N, ndim, *out) -> (N, C, *out)."""
    return warp_many([image], disp, [mode == "nearest"], padding)[0]


def warp_backward(
    grad: Tensor, image: Tensor, disp: Tensor, mode: str, padding: str, to_image: bool, to_disp: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to image, in the dtype of the arithmetic, and to disp, in its own; empty where not asked for."""
    return samplers.sample_backward(grad, image, disp, "displacement", mode, padding, to_image, to_disp)


def warp_double_backward(
    grad: Tensor, image: Tensor, disp: Tensor, tangent: Tensor, padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of sum(tangent * grad_disp) to grad, image and disp; tangent has the shape of disp."""
    return samplers.sample_double_backward(grad, image, disp, tangent, "displacement", padding)


def warp_many(images: Sequence[Tensor], disp: Tensor, nearest: Sequence[bool], padding: str) -> list[Tensor]:
    """Several images (N, C_i, *in) of one spatial size -> one (N, C_i, *out) each, in one launch."""
    return samplers.sample(images, disp, disp.shape[2:], "displacement", nearest, padding)[0]


def warp_with_gradient(image: Tensor, disp: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    """-> the linear warp (N, C, *out) and the image's derivatives there (N, C, ndim, *out)."""
    (value,), slope = samplers.sample([image], disp, disp.shape[2:], "displacement", [False], padding, slopes=True)
    assert slope is not None
    return value, slope
