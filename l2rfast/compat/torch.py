"""`torch.nn.functional.grid_sample` and `affine_grid`, with PyTorch's own answer to every argument.

A grid of `affine_grid` that goes straight to `grid_sample` is never made: the affine map is sampled by `affine_warp`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .. import _check, _sampling, normalised_grid, transforms
from .patching import FallThrough, Library

LIBRARY = Library("torch", ">=2.11")  # of newer ones than were tried, importing l2rfast warns
_MODES = {"bilinear": "linear", "nearest": "nearest"}
# What needs the memory of a tensor, which other operations reach by the dispatcher.
_OF_MEMORY = {
    *(Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.__dlpack__, Tensor.data_ptr, Tensor.untyped_storage),
    *(Tensor.__deepcopy__, Tensor.__reduce_ex__),
}


class AffineGrid(Tensor):
    """What the replaced `affine_grid` returns: a grid whose values are made when something else than sampling asks.

    Attributes:
        theta: (N, ndim, ndim + 1) as it was, of which the grid is differentiable.
        corners: whether -1 and 1 are the centres of the first and last voxel, or their outer borders.
    """

    theta: Tensor
    corners: bool
    _size: list[int]
    _made: Tensor | None = None

    @staticmethod
    def like(theta: Tensor, size: list[int], corners: bool) -> AffineGrid:
        shape = (theta.shape[0], *size[2:], len(size) - 2)
        grid: AffineGrid = Tensor._make_wrapper_subclass(AffineGrid, shape, dtype=theta.dtype, device=theta.device)
        grid.theta, grid.corners, grid._size = theta, corners, size
        return grid

    @property
    def untouched(self) -> bool:
        """Whether nothing has asked for its values, so that nothing can have changed them."""
        return self._made is None

    def made(self) -> Tensor:
        if self._made is None:
            self._made = torch.affine_grid_generator(self.theta.detach(), self._size, self.corners)
        return self._made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _OF_MEMORY:
                args = tree_map_only(AffineGrid, torch.ops.aten.alias, args)
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Any operation on it is one on its values."""
        args, kwargs = tree_map_only(AffineGrid, AffineGrid.made, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return repr(self.made())

    def matrix(self, sampled: Sequence[int], corners: bool) -> Tensor:
        """(N, ndim, ndim + 1), from voxels of the output to those of an image of this size that is sampled."""
        theta = self.theta.double().flip(1)  # rows z y x, and columns below
        scale, first = _normalised(self._size[2:], self.corners)
        ends = theta.new_tensor([side - 1 if corners else side for side in sampled]) / 2
        centre = theta.new_tensor([side - 1 for side in sampled]) / 2
        scale, first = scale.to(theta.device), first.to(theta.device)
        linear = theta[:, :, :-1].flip(2)
        offset = theta[:, :, -1] + (linear * first).sum(2)
        return torch.cat([linear * scale, offset[:, :, None]], 2) * ends[:, None] + F.pad(
            centre[:, None], (len(sampled), 0)
        )


def _normalised(size: Sequence[int], corners: bool) -> tuple[Tensor, Tensor]:
    """Per axis: the distance of neighbours in `affine_grid`'s coordinates, and where the first voxel is."""
    scale = [2 / (side - 1 if corners else side) for side in size]
    first = [-step * (side - 1) / 2 for step, side in zip(scale, size, strict=True)]
    kind: Any = {"dtype": torch.float64, "device": "cpu"}
    return torch.tensor(scale, **kind), torch.tensor(first, **kind)


class _Make(torch.autograd.Function):
    """Of theta, an `AffineGrid` that autograd knows like any grid."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, size: list[int], corners: bool) -> AffineGrid:
        ctx.size, ctx.corners = size, corners
        return AffineGrid.like(theta, size, corners)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return torch.ops.aten.affine_grid_generator_backward(*grads, ctx.size, ctx.corners), None, None


def _told(align_corners: bool | None) -> bool:
    """PyTorch's default, with its warning."""
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please "
            "specify align_corners=True if the old behavior is desired. See the documentation of grid_sample for "
            "details.",
            stacklevel=4,
        )
    return bool(align_corners)


@LIBRARY.replaces(F, "affine_grid")
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor | FallThrough:
    """As `torch.nn.functional.affine_grid`, but values are made only when something else than `grid_sample` asks."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._functorch.peek_interpreter_stack():
        return FallThrough("inside a program that is compiled or traced, or a transform of torch.func")
    if type(theta) not in (Tensor, torch.nn.Parameter) or len(size) not in (4, 5) or not theta.is_floating_point():
        return FallThrough("shapes or dtypes that we do not take")
    ndim, size = len(size) - 2, [int(side) for side in size]
    if theta.shape != (size[0], ndim, ndim + 1) or min(size) < 1 or min(size[2:]) < 2:
        return FallThrough("shapes that we do not take, or an axis of one voxel")
    # A copy, as theta may change before the grid is made.
    grid: AffineGrid = _Make.apply(theta.clone(), size, _told(align_corners))  # type: ignore[no-untyped-call]
    return grid


@LIBRARY.replaces(F, "grid_sample")
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor | FallThrough:
    """As `torch.nn.functional.grid_sample`. Bicubic sampling is PyTorch's own, and so are inputs that it refuses."""
    if not isinstance(input, Tensor) or not isinstance(grid, Tensor):
        return FallThrough("what stands for a tensor")
    if mode not in _MODES:
        return FallThrough(f"mode {mode!r}")
    if padding_mode not in _sampling.PADDINGS:
        return FallThrough(f"padding_mode {padding_mode!r}")
    ndim = input.ndim - 2
    fits = ndim in (2, 3) and grid.ndim == input.ndim and grid.shape[-1] == ndim and grid.shape[0] == input.shape[0]
    if not fits or input.numel() == 0 or grid.numel() == 0:
        return FallThrough("shapes that we do not take")
    if input.dtype != grid.dtype or not input.is_floating_point() or input.device != grid.device:
        return FallThrough("dtypes or devices that we do not take")
    corners = _told(align_corners)
    # A reflection is at the centres of the outermost voxels in `affine_warp`.
    if isinstance(grid, AffineGrid) and grid.untouched and (corners or padding_mode != "reflection"):
        matrix = grid.matrix(input.shape[2:], corners).to(_check.arithmetic_dtype(input))
        return transforms.affine_warp(input, matrix, grid.shape[1:-1], mode=_MODES[mode], padding=padding_mode)
    return normalised_grid.grid_sample(input, grid, mode, padding_mode, corners)


__all__ = ["affine_grid", "grid_sample"]
