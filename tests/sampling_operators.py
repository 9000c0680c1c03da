"""What samples images, among the operations."""

from __future__ import annotations

from typing import Any

import samples
import torch
from operation import Errors, Operation, not_flags, not_one_of, not_tensors
from samples import BIG, BIG_POWERS, EDGES, PADDINGS, POWERS, SHAPES, noise
from torch import Tensor

import l2rfast
from l2rfast.transforms import FIELD_MODES, WARP_MODES


def warp_many(image: Tensor, labels: Tensor, disp: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return l2rfast.warp_many([image, labels], disp, **options)


def vote(image: Tensor, disp: Tensor, **options: Any) -> Tensor:
    """Of labels made of an image, in its dtype, as the others."""
    return l2rfast.warp((2 * image).round().int(), disp, mode="vote", **options).to(image.dtype)


def affine_vote(image: Tensor, matrix: Tensor, **options: Any) -> Tensor:
    """Of labels made of an image, in its dtype, as the others."""
    return l2rfast.affine_warp((2 * image).round().int(), matrix, mode="vote", **options).to(image.dtype)


def spline_warp(image: Tensor, disp: Tensor, **options: Any) -> Tensor:
    return l2rfast.warp(image, disp, mode="cubic", **options)


def spline_coefficients(image: Tensor) -> Tensor:
    """In the image's dtype, as the others."""
    return l2rfast.spline_coefficients(image).to(image.dtype)


def sinc(image: Tensor, disp: Tensor, **options: Any) -> Tensor:
    return l2rfast.warp(image, disp, mode="sinc", **options)


def affine_sinc(image: Tensor, matrix: Tensor, **options: Any) -> Tensor:
    return l2rfast.affine_warp(image, matrix, mode="sinc", **options)


def affine_resample(image: Tensor, matrix: Tensor, disp: Tensor, **options: Any) -> Tensor:
    return l2rfast.affine_warp(image, matrix, disp=disp, **options)


def _not_sampled(image: str, where: str, good: Tensor, *, called: str = "") -> Errors:
    """What a field or grid (2, ...) may not differ in from the image that is sampled there."""
    names = f"{called or image}, {where}"
    deeper = good.new_zeros(2, 3, 5, 4, 3) if image == "input" else good.new_zeros(2, 3, 5, 4, 4)
    yield {where: deeper}, f"{names}: expected as many spatial axes"
    yield {where: torch.cat([good, good[:1]])}, f"{names}: expected one batch size, or 1, got 2 and 3"
    yield {where: good.to("meta")}, f"{names}: expected one device"
    if called:
        yield from (({image: e[image]}, m.replace(image, called, 1)) for e, m in not_tensors(image))


_threads = torch.get_num_threads()
torch.set_num_threads(1)  # for small tensors, as in the tests

OPERATIONS = [
    Operation(
        l2rfast.warp,
        samples.warps,
        list(samples.warps(SHAPES)),
        list(samples.warps(BIG, EDGES)),
        [
            *not_tensors("image", "disp"),
            *not_one_of(mode=FIELD_MODES, padding=PADDINGS),
            *_not_sampled("image", "disp", noise(2, 2, 5, 4)),
            ({"disp": noise(2, 3, 5, 5)}, "disp: expected one channel per spatial axis"),
            ({"image": noise(2, 2, 5, 4).cfloat(), "mode": "nearest"}, "image: expected a real dtype"),
            *not_flags("prefilter"),
            ({"prefilter": False}, "prefilter: expected True, or mode='cubic', got False and mode='linear'"),
        ],
        ("image", "disp"),
        twice=True,
    ),
    Operation(
        spline_warp,
        samples.spline_warps,
        list(samples.spline_warps(SHAPES)),
        list(samples.spline_warps(BIG, EDGES)),
        [*not_tensors("image", "disp"), *_not_sampled("image", "disp", noise(2, 2, 5, 4))],
        ("image", "disp"),
    ),
    Operation(
        spline_coefficients,
        lambda sizes: samples.noisy("image", 3, sizes),
        list(samples.noisy("image", 3, SHAPES)),
        list(samples.noisy("image", 2, BIG)),
        [*not_tensors("image"), ({"image": noise(2, 2, 5)}, "image: expected shape (N, C, H, W)")],
        ("image",),
        twice=True,
    ),
    Operation(
        warp_many,
        samples.warps_of_two,
        list(samples.warps_of_two(SHAPES)),
        list(samples.warps_of_two(BIG, ["reflection"])),
        [
            *not_tensors("disp"),
            *not_one_of(padding=PADDINGS),
            *_not_sampled("image", "disp", noise(2, 2, 5, 4), called="images[0]"),
            *[(e | {"modes": ("linear",) * 2}, "images[1]: expected") for e, _ in not_tensors("labels")],
            ({"labels": noise(3, 1, 5, 4)}, "images[1], disp: expected one batch size"),
            ({"labels": noise(1, 1, 5, 4)}, "images[1]: expected the batch and spatial size of images[0]"),
            ({"labels": noise(2, 1, 5, 5)}, "images[1]: expected the batch and spatial size of images[0]"),
            ({"modes": 1}, "modes: expected a list"),
            ({"modes": ("linear",)}, "images, modes: expected one mode per image"),
            ({"modes": ("linear", "cubic")}, "modes[1]: expected one of linear, nearest"),
        ],
        ("image", "labels", "disp"),
        twice=True,
    ),
    Operation(
        l2rfast.warp_with_gradient,
        samples.warps_with_gradient,
        list(samples.warps_with_gradient(SHAPES)),
        list(samples.warps_with_gradient(BIG, ["zeros"])),
        [
            *not_tensors("image", "disp"),
            *not_one_of(padding=PADDINGS),
            *_not_sampled("image", "disp", noise(2, 2, 5, 4)),
        ],
    ),
    Operation(
        l2rfast.grid_sample,
        lambda sizes: samples.grids(sizes, {}),
        list(samples.grids(SHAPES, POWERS)),
        list(samples.grids(BIG_POWERS, BIG_POWERS, EDGES)),
        [
            *not_tensors("input", "grid"),
            *not_one_of(mode=("bilinear", "nearest", "bicubic"), padding_mode=PADDINGS),
            *[error for error in not_flags("align_corners") if error[0]["align_corners"] is not None],
            *_not_sampled("input", "grid", noise(2, 5, 4, 2)),
            ({"grid": noise(2, 5, 4, 3)}, "grid: expected a floating tensor of shape (N, H, W, 2)"),
            (
                {"input": noise(2, 1, 3, 3, 3), "grid": noise(2, 3, 3, 3, 3), "mode": "bicubic"},
                "mode: expected bilinear or nearest in 3-D",
            ),
        ],
        ("input", "grid"),
    ),
    Operation(
        l2rfast.affine_warp,
        samples.affine_warps,
        list(samples.affine_warps(SHAPES)),
        list(samples.affine_warps(BIG, EDGES)),
        [
            *not_tensors("image", "matrix"),
            *not_one_of(mode=WARP_MODES, padding=PADDINGS),
            ({"matrix": noise(2, 3, 3)}, "matrix: expected a floating tensor of shape (N, 2, 3)"),
            ({"matrix": noise(3, 2, 3)}, "image, matrix: expected one batch size, or 1, got 2 and 3"),
            ({"matrix": noise(2, 2, 3).to("meta")}, "image, matrix: expected one device"),
            *[({"size": s}, "size: expected 2 positive") for s in ((5,), (5, 0), (5, -1), (5, 2.5), (5, "4"), 5, "5")],
        ],
        ("image", "matrix"),
    ),
    Operation(
        affine_resample,
        samples.displaced_affine_warps,
        list(samples.displaced_affine_warps(SHAPES)),
        list(samples.displaced_affine_warps(BIG, EDGES)),
        [
            *not_tensors("image", "matrix"),
            *[error for error in not_tensors("disp") if error[0]["disp"] is not None],
            *not_one_of(mode=WARP_MODES, padding=PADDINGS),
            ({"disp": noise(2, 3, 4, 5, 3)}, "image, disp: expected as many spatial axes, got 2 and 3"),
            ({"disp": noise(3, 2, 5, 4)}, "image, disp: expected one batch size, or 1, got 2 and 3"),
            ({"size": (6, 4)}, "size, disp: expected one size, got (6, 4) and (5, 5)"),
            ({"outside": "1"}, "outside: expected a number that torch.float64 holds, got '1'"),
            ({"outside": (1, 2)}, "outside: expected a number that torch.float64 holds, got (1, 2)"),
        ],
    ),
    Operation(
        vote,
        samples.warps_with_gradient,
        list(samples.warps_with_gradient(SHAPES)),
        list(samples.warps_with_gradient(BIG, EDGES)),
        [*not_tensors("disp"), *not_one_of(padding=PADDINGS)],
    ),
    Operation(
        affine_vote,
        lambda sizes: (s.without("mode") for s in samples.affine_warps(sizes)),
        [s.without("mode") for s in samples.affine_warps(SHAPES) if s.options["mode"] == "nearest"],
        [s.without("mode") for s in samples.affine_warps(BIG, EDGES) if s.options["mode"] == "nearest"],
        [*not_tensors("matrix"), *not_one_of(padding=PADDINGS)],
    ),
    Operation(
        sinc,
        samples.warps_with_gradient,
        list(samples.warps_with_gradient({2: SHAPES[2], 3: [(3, 4, 3), (1, 2, 6)]})),
        list(samples.warps_with_gradient({2: [(40, 30)]}, EDGES)),
        [*not_tensors("image", "disp"), *not_one_of(padding=PADDINGS)],
    ),
    Operation(
        affine_sinc,
        lambda sizes: (s.without("mode") for s in samples.affine_warps(sizes)),
        [
            s.without("mode")
            for s in samples.affine_warps({2: SHAPES[2], 3: [(1, 2, 3)]})
            if s.options["mode"] == "linear"
        ],
        [],
        [*not_tensors("image", "matrix"), *not_one_of(padding=PADDINGS)],
    ),
    Operation(
        l2rfast.compose,
        samples.compositions,
        list(samples.compositions(SHAPES)),
        list(samples.compositions(BIG)),
        [
            *not_tensors("outer", "inner"),
            *_not_sampled("outer", "inner", noise(2, 2, 5, 4)),
            *[({n: noise(2, 3, 5, 4)}, f"{n}: expected one channel per spatial axis") for n in ("outer", "inner")],
            ({"inner": noise(2, 2, 5, 4).float()}, "outer, inner: expected one dtype"),
        ],
        ("outer", "inner"),
        twice=True,
    ),
]

torch.set_num_threads(_threads)
