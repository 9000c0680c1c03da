"""Warping by a displacement field: the definition.

out(x) = image(x + disp(x)); how an image is sampled between voxels and outside is defined in `common.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..common import sampling


def warp(image: Tensor, disp: Tensor, mode: str, padding: str) -> Tensor:
    """image (N, C, *in), disp (N, ndim, *out) -> (N, C, *out)."""
    return sampling.sample(image, sampling.displaced(disp), mode, padding)


def warp_backward(
    grad: Tensor, image: Tensor, disp: Tensor, mode: str, padding: str, to_image: bool, to_disp: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to image, in the dtype of the arithmetic, and to disp, in its own; empty where not asked for."""
    positions = sampling.displaced(disp)
    grad_image, grad_disp = sampling.sample_backward(grad, image, positions, mode, padding, to_image, to_disp)
    return grad_image, grad_disp.to(disp.dtype)


def warp_double_backward(
    grad: Tensor, image: Tensor, disp: Tensor, tangent: Tensor, padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of sum(tangent * grad_disp), grad_disp of a linear warp, to grad, image and disp.

    tangent has the shape of disp. To image in the dtype of the arithmetic, to the others in their own.
    """
    positions = sampling.displaced(disp)
    to_grad, to_image, to_disp = sampling.sample_double_backward(grad, image, positions, tangent, padding)
    return to_grad.to(grad.dtype), to_image, to_disp.to(disp.dtype)


def warp_many(images: Sequence[Tensor], disp: Tensor, nearest: Sequence[bool], padding: str) -> list[Tensor]:
    """Several images (N, C_i, *in) of one spatial size -> one (N, C_i, *out) each."""
    modes = ["nearest" if n else "linear" for n in nearest]
    return [warp(image, disp, mode, padding) for image, mode in zip(images, modes, strict=True)]


def warp_with_gradient(image: Tensor, disp: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    """-> the linear warp (N, C, *out) and the image's derivatives there (N, C, ndim, *out)."""
    return sampling.sample_with_gradient(image, sampling.displaced(disp), padding)
