"""Sampling images: by a displacement field or an affine map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _check, _sampling
from ._dispatch import Operator
from ._sampling import PADDINGS
from .carrying import CARRYING
from .errors import InputError
from .kernels.affine_warp import reference as affine_reference
from .kernels.bspline import reference as spline_reference
from .kernels.common import sampling
from .kernels.common.sampling import arithmetic_dtype
from .kernels.warp import reference

MODES = ("linear", "nearest")
WARP_MODES = (*MODES, *CARRYING)
FIELD_MODES = (*WARP_MODES, "cubic")


def _fake_double_backward(
    grad: Tensor, image: Tensor, disp: Tensor, tangent: Tensor, padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    real = arithmetic_dtype(disp)
    return grad.new_empty(grad.shape), image.new_empty(image.shape, dtype=real), disp.new_empty(disp.shape)


def _fake_with_gradient(image: Tensor, disp: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    value = _sampling.fake_like(image, disp, disp.shape[2:])
    return value, value.new_empty((*value.shape[:2], *disp.shape[1:]))


def _warp_backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, image, disp, ctx.mode, ctx.padding, ctx.to_image, ctx.to_disp = inputs
    ctx.save_for_backward(grad, image, disp)


def _warp_backward_gradient(ctx: Any, image_tangent: Tensor, disp_tangent: Tensor) -> tuple[Tensor | None, ...]:
    """Of the gradient to the image, which is the adjoint of warping, and of that to the field."""
    grad, image, disp = ctx.saved_tensors
    mode, padding = ctx.mode, ctx.padding
    to_grad = to_image = to_disp = None
    if ctx.to_disp and mode == "linear":
        to_grad, to_image, to_disp = _warp_double_backward(grad, image, disp, disp_tangent, padding)
        to_image = to_image.to(image.dtype)
    if ctx.to_image:
        tangent = image_tangent.to(image.dtype)
        again = _warp(tangent, disp, mode, padding)
        again = torch.where(torch.isfinite(disp).all(1, keepdim=True), again, 0)
        to_grad = again if to_grad is None else to_grad + again
        if mode == "linear":
            _, more = _warp_backward(grad, tangent, disp, mode, padding, False, True)
            to_disp = more if to_disp is None else to_disp + more
    return to_grad, to_image, to_disp, None, None, None, None


def _many_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    images, disp, ctx.nearest, ctx.padding = inputs
    ctx.save_for_backward(disp, *images)


def _many_gradient(ctx: Any, grads: list[Tensor]) -> tuple[list[Tensor | None], Tensor | None, None, None]:
    disp, *images = ctx.saved_tensors
    field_dtype, disp = disp.dtype, disp.to(arithmetic_dtype(disp))  # sums are not rounded in between
    to_images, to_disp = ctx.needs_input_grad[:2]
    by_images: list[Tensor | None] = [None] * len(images)
    by_disp = None
    for i, (grad, image, nearest) in enumerate(zip(grads, images, ctx.nearest, strict=True)):
        mine = bool(to_images[i]) and image.is_floating_point()
        field = bool(to_disp) and not nearest
        if not (mine or field):
            continue
        mode = "nearest" if nearest else "linear"
        by_image, by_field = _warp_backward(grad, image, disp, mode, ctx.padding, mine, field)
        if mine:
            by_images[i] = by_image.to(image.dtype)
        if field:
            by_disp = by_field if by_disp is None else by_disp + by_field
    return by_images, None if by_disp is None else by_disp.to(field_dtype), None, None


_warp_double_backward = Operator(reference.warp_double_backward, fake=_fake_double_backward)
_warp_backward = Operator(
    reference.warp_backward,
    fake=_sampling.fake_backward,
    backward=_warp_backward_gradient,
    setup_context=_warp_backward_context,
)
_warp = Operator(
    reference.warp,
    fake=lambda image, disp, mode, padding: _sampling.fake_like(image, disp, disp.shape[2:]),
    backward=_sampling.gradient(_warp_backward),
    setup_context=_sampling.context,
)
_warp_many = Operator(
    reference.warp_many,
    fake=lambda images, disp, nearest, padding: [_sampling.fake_like(image, disp, disp.shape[2:]) for image in images],
    backward=_many_gradient,
    setup_context=_many_context,
)
_warp_with_gradient = Operator(reference.warp_with_gradient, fake=_fake_with_gradient)
_affine_warp_backward = Operator(affine_reference.affine_warp_backward, fake=_sampling.fake_backward)


def _affine_backward(grad: Tensor, image: Tensor, matrix: Tensor, size: list[int], *rest: Any) -> tuple[Tensor, Tensor]:
    """The shape of grad tells the size."""
    return _sampling.once("affine_warp", _affine_warp_backward)(grad, image, matrix, *rest)


_affine_warp = Operator(
    affine_reference.affine_warp,
    fake=lambda image, matrix, size, mode, padding: _sampling.fake_like(image, matrix, size),
    backward=_sampling.gradient(_affine_backward),
    setup_context=_sampling.context,
)


_affine_resample = Operator(
    affine_reference.affine_resample,
    fake=lambda image, matrix, disp, size, *options: _sampling.fake_like(
        image, disp if disp is not None and len(disp) >= len(matrix) else matrix, size
    ),
)


def _coefficients_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.adjoint = inputs


def _coefficients_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _spline_coefficients(grad, not ctx.adjoint), None


_spline_coefficients = Operator(
    spline_reference.spline_coefficients,
    fake=lambda image, adjoint: image.new_empty(image.shape),
    backward=_coefficients_gradient,
    setup_context=_coefficients_context,
)
_spline_warp_backward = Operator(spline_reference.spline_warp_backward, fake=_sampling.fake_backward)
_spline_warp = Operator(
    spline_reference.spline_warp,
    fake=lambda image, disp, padding: _sampling.fake_like(image, disp, disp.shape[2:]),
    backward=_sampling.gradient(_sampling.once("warp, cubic", _spline_warp_backward)),
    setup_context=_sampling.context,
)


def _check_sampled(image: Tensor, where: Tensor, names: str, ndim: int, mode: str) -> None:
    _sampling.check(image, where, names, ndim, floating=mode not in ("nearest", *CARRYING))
    if mode in CARRYING:
        CARRYING[mode].check(image)


def spline_coefficients(image: Tensor) -> Tensor:
    """The coefficients of the cubic B-spline that goes through an image: what ``warp(..., mode="cubic")`` starts with.

    ``warp(coefficients, disp, mode="cubic", prefilter=False)`` then samples them, as often as one image is warped. They
    are those of `scipy.ndimage.spline_filter` of order 3 with mode "mirror" (Unser, Aldroubi & Eden, IEEE PAMI 1991).

    Args:
        image: (N, C, *spatial), 2-D or 3-D, any floating dtype.

    Returns:
        The shape of image; float64 of float64, else float32. Every coefficient takes something of every voxel of its
        lines, if little: a NaN leaves none beside it. Differentiable, as often as is asked for.

    Raises:
        InputError: another shape, an integer or complex dtype.
    """
    _check.image("image", image)
    result: Tensor = _spline_coefficients(image.to(arithmetic_dtype(image)), False)
    return result


def warp(
    image: Tensor, disp: Tensor, *, mode: str = "linear", padding: str = "border", prefilter: bool = True
) -> Tensor:
    """Sample an image at ``x + disp(x)``.

    Args:
        image: (N, C, *in), 2-D or 3-D; any floating dtype, or integers and booleans with ``mode="nearest"`` and, those
            alone, with ``"vote"``.
        disp: (N, ndim, *out), floating, in voxels; component k moves along spatial axis k. ``*out`` may
            differ from ``*in``; the sample position of output voxel x is x + disp(x) in voxels of the image.
            A batch of one image, or of one field, goes with every item of the other's.
        mode: ``"linear"`` (bilinear, trilinear), ``"nearest"`` (ties to the even voxel), ``"cubic"``, the B-spline
            that goes through the image (smooth, and sharper than linear; it may leave the range of the image near
            edges), ``"sinc"``, of radius 5 in a Lanczos window and not scaled, as SimpleITK has it, or ``"vote"`` for
            labels: each of the 2^ndim voxels around votes for its label with its linear
            weight, and the largest sum wins, ties to the lesser label: the argmax over linearly warped channels of one
            label each, without the channels.
        padding: outside the image: ``"border"`` repeats the nearest voxel, ``"zeros"`` counts as 0,
            ``"reflection"`` mirrors about the centres of the first and last voxels. Cubic, ``"zeros"`` fades from the
            value at the border to 0 over one voxel, as linear interpolation does.
        prefilter: False where image already is what `spline_coefficients` gives, for ``"cubic"``.

    Returns:
        (N, C, *out) in the image's dtype. Positions are computed in float32, or in float64 when image or
        field is. A NaN or infinite displacement gives NaN there (0 in integer images) and no gradient.

    Differentiable in image and disp, twice; cubic once, votes and sinc not. Where the padding clamps a position, the
    derivative by disp is 0. The gradient to the image has the same bits for any number of threads on a CPU; on a GPU
    its sums are taken in any order, unless ``torch.use_deterministic_algorithms(True)`` (see
    docs/reference/warping.md for how, and for what it costs).

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an unknown mode or padding.
    """
    ndim = _check.field("disp", disp)
    _check.choice("mode", mode, FIELD_MODES)
    _check.choice("padding", padding, PADDINGS)
    _check_sampled(image, disp, "image, disp", ndim, mode)
    if not (_check.flag("prefilter", prefilter) or mode == "cubic"):
        raise InputError(f"prefilter: expected True, or mode='cubic', got {prefilter!r} and mode={mode!r}")
    source, disp = _sampling.one_precision(image, disp)
    result: Tensor
    if mode in CARRYING:
        result = CARRYING[mode].by_field(source, disp, padding)
    elif mode == "cubic":
        coefficients = spline_coefficients(source) if prefilter else source.to(arithmetic_dtype(source))
        result = _spline_warp(coefficients, disp, padding)
    else:
        result = _warp(source, disp, mode, padding)
    return result.to(image.dtype)


def warp_many(
    images: Sequence[Tensor], disp: Tensor, *, modes: Sequence[str], padding: str = "border"
) -> tuple[Tensor, ...]:
    """Warp several images by one field in one pass: an image and its labels, say.

    The field is read and the positions are computed once.

    Args:
        images: each (N, C_i, *in) as in `warp`, of one batch and spatial size; channels and dtypes may differ.
        disp: (N, ndim, *out), as in `warp`.
        modes: of each image, ``"linear"`` or ``"nearest"``.
        padding: as in `warp`, the same for all.

    Returns:
        One (N, C_i, *out) per image, in its dtype. Differentiable in the floating images and in disp, twice.

    Raises:
        InputError: as in `warp`, and for images that differ in shape or number from what is expected.
    """
    images = list(images)
    ndim = _check.field("disp", disp)
    _check.choice("padding", padding, PADDINGS)
    for name, several in (("images", images), ("modes", modes)):
        if not isinstance(several, list | tuple):
            raise InputError(f"{name}: expected a list, got {type(several).__name__}")
    if not images or len(images) != len(modes):
        raise InputError(f"images, modes: expected one mode per image, got {len(modes)} and {len(images)}")
    for i, (image, mode) in enumerate(zip(images, modes, strict=True)):
        _check.choice(f"modes[{i}]", mode, MODES)
        _check_sampled(image, disp, f"images[{i}], disp", ndim, mode)
        if (image.shape[0], image.shape[2:]) != (images[0].shape[0], images[0].shape[2:]):
            raise InputError(
                f"images[{i}]: expected the batch and spatial size of images[0], "
                f"{tuple(images[0].shape)}, got {tuple(image.shape)}"
            )
    if torch.float64 in (disp.dtype, *(image.dtype for image in images)):
        disp = disp.double()
    sources = [_sampling.one_precision(image, disp)[0] for image in images]
    results = _warp_many(sources, disp, [mode == "nearest" for mode in modes], padding)
    return tuple(result.to(image.dtype) for result, image in zip(results, images, strict=True))


def warp_with_gradient(image: Tensor, disp: Tensor, *, padding: str = "border") -> tuple[Tensor, Tensor]:
    """Warp an image, and give the spatial gradient of the image at the sample points.

    What Gauss-Newton and demons-like optimisers need: ``warp(image, disp + du)`` is about
    ``warped + (gradient * du[:, None]).sum(2)``.

    Args:
        image: (N, C, *in), floating; disp, padding: as in `warp`.

    Returns:
        The linear warp (N, C, *out), and the derivatives of the interpolated image by the sample position, per voxel:
        (N, C, ndim, *out), 0 where the padding clamps a position. Not differentiable.

    Raises:
        InputError: as in `warp`.
    """
    ndim = _check.field("disp", disp)
    _check.choice("padding", padding, PADDINGS)
    _check_sampled(image, disp, "image, disp", ndim, "linear")
    value, gradient = _warp_with_gradient(*_sampling.one_precision(image, disp), padding)
    return value.to(image.dtype), gradient.to(image.dtype)


def affine_warp(
    image: Tensor,
    matrix: Tensor,
    size: Sequence[int] | None = None,
    *,
    disp: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
    outside: float | None = None,
) -> Tensor:
    """Sample an image at an affine map of the output voxels, without a grid in memory.

    Args:
        image: (N, C, *in), as in `warp`.
        matrix: (N, ndim, ndim + 1), floating: output voxel -> voxel of the image. A batch of one image, or of one
            matrix, goes with every item of the other's.
        size: spatial size of the output; that of the image when None, or of the field.
        disp: (N, ndim, *size), floating, in voxels of the output: x + disp(x) goes through the matrix, in one pass.
        mode, padding: as in `warp`.
        outside: the value where a position is farther than half a voxel beyond the image's voxels, as ITK has it, or
            not finite; None where the padding goes on there.

    Returns:
        (N, C, *size) in the image's dtype; NaN where the matrix gives no finite position. Differentiable in image and
        matrix, once; with a field, or a value outside, not at all.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, an unknown mode or padding, a value that the image's
            dtype does not hold.
        NotDifferentiableError: a derivative is asked for, with a field or a value outside.
    """
    _check.choice("mode", mode, WARP_MODES)
    _check.choice("padding", padding, PADDINGS)
    ndim = _check.image("image", image, floating=mode == "linear")
    if disp is not None and _check.field("disp", disp) != ndim:
        raise InputError(f"image, disp: expected as many spatial axes, got {ndim} and {disp.ndim - 2}")
    usual = (image if disp is None else disp).shape[2:]
    asked = tuple(usual) if size is None else _check.plain(size)
    if not isinstance(asked, tuple) or len(asked) != ndim or not all(_check.is_integer(s) and s > 0 for s in asked):
        raise InputError(f"size: expected {ndim} positive integers, got {size!r}")
    size = list(asked)
    _check.tensor("matrix", matrix)
    if not _check.is_floating(matrix) or matrix.shape[1:] != (ndim, ndim + 1) or matrix.numel() == 0:
        raise InputError(
            f"matrix: expected a floating tensor of shape (N, {ndim}, {ndim + 1}), "
            f"got {matrix.dtype} {tuple(matrix.shape)}"
        )
    _check_sampled(image, matrix, "image, matrix", ndim, mode)
    source, matrix = _sampling.one_precision(image, matrix)
    if disp is not None:
        _check_sampled(image, disp, "image, disp", ndim, mode)
        if tuple(size) != tuple(disp.shape[2:]):
            raise InputError(f"size, disp: expected one size, got {tuple(size)} and {tuple(disp.shape[2:])}")
        if disp.shape[0] != matrix.shape[0] and 1 not in (disp.shape[0], matrix.shape[0]):
            raise InputError(f"matrix, disp: expected one batch size, or 1, got {matrix.shape[0]} and {disp.shape[0]}")
        if torch.float64 in (source.dtype, disp.dtype, matrix.dtype):
            (source, disp), (source, matrix) = (
                _sampling.one_precision(source, each.double()) for each in (disp, matrix)
            )
    value = None if outside is None else _one_value("outside", outside, source)
    result: Tensor
    if disp is None and value is None:
        warp_by, options = (CARRYING[mode].by_matrix, ()) if mode in CARRYING else (_affine_warp, (mode,))
        result = warp_by(source, matrix, size, *options, padding)
    elif mode in CARRYING:
        result = _carried(source, matrix, disp, size, mode, padding, value)
    else:
        result = _affine_resample(source, matrix, disp, size, mode, padding, value)
    return result.to(image.dtype)


def _carried(
    image: Tensor,
    matrix: Tensor,
    disp: Tensor | None,
    size: list[int],
    mode: str,
    padding: str,
    value: Tensor | None,
) -> Tensor:
    """`affine_warp` by what samples at a field or at a matrix, and fills nothing."""
    carrying, own = CARRYING[mode], sampling.coordinates(size, matrix)
    places = sampling.transformed(matrix, own if disp is None else own + disp)
    if disp is None:
        found = carrying.by_matrix(image, matrix, size, padding)
    else:
        found = carrying.by_field(image, places - own, padding)
    return found if value is None else sampling.filled(found, sampling.beyond(places, image.shape[2:]), value)


def _one_value(name: str, value: float, image: Tensor) -> Tensor:
    """() in the dtype and on the device of an image."""
    number = _check.plain(value)
    if isinstance(number, int | float) and _is_held(number, image.dtype):
        return image.new_full((), number)  # not a copy, see `numbers` of the kernels
    raise InputError(f"{name}: expected a number that {image.dtype} holds, got {value!r}")


def _is_held(number: float, dtype: torch.dtype) -> bool:
    """What a floating dtype rounds it holds, but not what it rounds to infinity."""
    if dtype.is_floating_point:
        return abs(number) <= torch.finfo(dtype).max or abs(number) == math.inf or number != number
    ends = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return ends[0] <= number <= ends[1] and number == int(number)
