"""Sampling images at a normalised grid, as PyTorch has them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _check, _sampling
from ._dispatch import Operator
from .errors import InputError
from .kernels.grid_sample import reference

MODES = ("bilinear", "nearest", "bicubic")

_grid_sample_backward = Operator(reference.grid_sample_backward, fake=_sampling.fake_backward)
_grid_sample = Operator(
    reference.grid_sample,
    fake=lambda image, grid, *options: _sampling.fake_like(image, grid, grid.shape[1:-1]),
    backward=_sampling.gradient(_sampling.once("grid_sample", _grid_sample_backward)),
    setup_context=_sampling.context,
)


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """`torch.nn.functional.grid_sample`, with the same arguments and values.

    Args:
        input: (N, C, *in), 2-D or 3-D; integers and booleans too with ``mode="nearest"``.
        grid: (N, *out, ndim), floating: positions as x, y(, z), -1 and 1 at the borders of the image. A batch of one
            input, or of one grid, goes with every item of the other's.
        mode: ``"bilinear"`` (trilinear in 3-D), ``"nearest"``, or ``"bicubic"`` (2-D only, PyTorch's own).
        padding_mode: ``"zeros"``, ``"border"`` or ``"reflection"``.
        align_corners: whether -1 and 1 are the centres of the outer voxels (True) or their outer edges (False, and
            None).

    Returns:
        (N, C, *out) in the input's dtype. Unlike PyTorch's, a NaN or infinite position gives NaN (0 in integer
        images) and no gradient, and positions of 16-bit grids are computed in float32.

    Differentiable in input and grid, once.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an unknown mode or padding_mode.
    """
    _check.choice("mode", mode, MODES)
    _check.choice("padding_mode", padding_mode, _sampling.PADDINGS)
    _check.tensor("grid", grid)
    ndim = grid.ndim - 2
    if ndim not in (2, 3) or grid.shape[-1] != ndim or grid.numel() == 0 or not _check.is_floating(grid):
        raise InputError(
            "grid: expected a floating tensor of shape (N, H, W, 2) or (N, D, H, W, 3), "
            f"got {grid.dtype} {tuple(grid.shape)}"
        )
    _sampling.check(input, grid, "input, grid", ndim, floating=mode != "nearest")
    align = _check.flag("align_corners", False if align_corners is None else align_corners)
    if mode == "bicubic":
        if ndim == 3:
            raise InputError("mode: expected bilinear or nearest in 3-D, got 'bicubic'")
        n, dtype = max(input.shape[0], grid.shape[0]), torch.promote_types(input.dtype, grid.dtype)
        image, grid = (t.to(dtype).expand(n, *t.shape[1:]) for t in (input, grid))
        return F.grid_sample(image, grid, mode, padding_mode, align).to(input.dtype)
    padding = "symmetric" if padding_mode == "reflection" and not align else padding_mode
    result: Tensor = _grid_sample(
        *_sampling.one_precision(input, grid), "linear" if mode == "bilinear" else mode, padding, align
    )
    return result.to(input.dtype)
