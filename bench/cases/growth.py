"""How cost grows with the size, the channels, the window and the dtype: series of cases that differ in one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import l2rfast

from .. import peers
from ..harness import OURS, Case, Contestant, Point, Tensors
from . import inputs
from .inputs import Shape, Size
from .losses import SEPARABLE
from .warping import PYTORCH

WINDOWS = (3, 5, 7, 9, 15, 21)
CHANNELS = (1, 2, 4, 8, 16, 32)
# The rounding of the result.
DTYPES = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-5}
PLANES = 32  # of a reference at a time


def _cube(edge: int) -> Shape:
    return edge, edge, edge


def _slabs(shape: Shape, halo: int) -> Iterator[tuple[slice, slice]]:
    """Planes, with as many around as there are, and where they lie in those: in float64 a few fit the memory."""
    for start in range(0, shape[0], PLANES):
        end, first = min(start + PLANES, shape[0]), max(start - halo, 0)
        yield slice(first, min(end + halo, shape[0])), slice(start - first, end - first)


def warp(point: Point, shape: Shape, channels: int, dtype: torch.dtype = torch.float32) -> Case:
    image, disp = inputs.image(shape, 1, channels).to(dtype), inputs.displacement(shape).to(dtype)
    grid = peers.sampling_grid(peers.identity_grid(shape).to(dtype), disp).contiguous()
    contestants = {OURS: Contestant(lambda: l2rfast.warp(image, disp))}
    if dtype.itemsize > 2:  # in 16 bits a normalised position is a part of a voxel off, or half of one
        contestants[PYTORCH] = Contestant(lambda: peers.grid_sample(image, grid))

    def reference() -> Tensors:
        parts = []
        for planes, _ in _slabs(shape, 0):
            part = disp[:, :, planes].double()
            part[:, 0] += planes.start
            parts += inputs.exact(l2rfast.warp, image, part)()
        return (torch.cat(parts, 2),)

    return Case(
        f"{point.series}, {point.at}",
        "Trilinear, border repeated, smooth field of 6 voxels.",
        inputs.nbytes(image, disp, image),
        contestants,
        reference,
        tolerance=DTYPES[dtype],
        point=point,
    )


def warp_of_size(size: Size, index: int) -> Case:
    edge = size.edges[index]
    return warp(Point("warp, growth with the size", "voxels along an edge", edge), _cube(edge), 1)


def warp_of_channels(size: Size, channels: int) -> Case:
    point = Point(f"warp of {inputs.text(_cube(size.middle))}, growth with the channels", "channels", channels)
    return warp(point, _cube(size.middle), channels)


def warp_of_dtype(size: Size, dtype: torch.dtype) -> Case:
    name = str(dtype).removeprefix("torch.")
    point = Point(f"warp of {inputs.text(_cube(size.middle))}, by dtype", "dtype", name)
    return warp(point, _cube(size.middle), 1, dtype)


def local_ncc(point: Point, shape: Shape, window: int) -> Case:
    a = inputs.image(shape, seed=1)
    b = 0.7 * a + 0.3 * inputs.image(shape, seed=3)

    def both(loss: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensors:
        return inputs.with_gradients(loss, (a, b), (0, 1))

    def exact(weighting: str) -> Callable[[], Tensors]:
        """Of windows of planes that reach into others', the gradients of all of which are summed."""
        windows = partial(l2rfast.local_ncc, window=window, weighting=weighting, reduction="none")

        def reference() -> Tensors:
            total, gradients = torch.zeros((), dtype=torch.float64), []
            for planes, own in _slabs(shape, window - 1):
                part = (a[:, :, planes], b[:, :, planes])
                mean = torch.full_like(part[0], 1 / a.numel())
                values, *to = inputs.exact(partial(inputs.weighted, windows), *part, mean)()
                total += values[:, :, own].sum() / a.numel()
                gradients.append([g[:, :, own] for g in to])
            return total, *(torch.cat(g, 2) for g in zip(*gradients, strict=True))

        return reference

    ours, gaussian = (
        partial(both, partial(l2rfast.local_ncc, window=window, weighting=name)) for name in ("box", "gaussian")
    )
    return Case(
        f"{point.series}, {point.at}",
        "Forward and backward to both images, float32.",
        inputs.nbytes(a, b, a, b),
        {
            OURS: Contestant(lambda: ours(a, b)),
            f"{OURS}, Gaussian window": Contestant(lambda: gaussian(a, b), reference=exact("gaussian")),
            SEPARABLE: Contestant(lambda: both(partial(peers.separable_local_ncc, window=window), a, b)),
        },
        exact("box"),
        point=point,
    )


def local_ncc_of_size(size: Size, index: int) -> Case:
    edge = size.edges[index]
    return local_ncc(Point("local NCC, growth with the size", "voxels along an edge", edge), _cube(edge), 9)


def local_ncc_of_window(size: Size, window: int) -> Case:
    point = Point(f"local NCC of {inputs.text(_cube(size.middle))}, growth with the window", "window", window)
    return local_ncc(point, _cube(size.middle), window)


def _each_size(make: Callable[[Size, int], Case]) -> list[Callable[[Size], Case]]:
    return [partial(make, index=i) for i in range(len(inputs.SIZES["full"].edges))]


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "warp-size": _each_size(warp_of_size),
    "warp-channels": [partial(warp_of_channels, channels=channels) for channels in CHANNELS],
    "warp-dtype": [partial(warp_of_dtype, dtype=dtype) for dtype in DTYPES],
    "local-ncc-size": _each_size(local_ncc_of_size),
    "local-ncc-window": [partial(local_ncc_of_window, window=window) for window in WINDOWS],
}
