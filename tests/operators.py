"""Every public operation with its sample inputs and its error inputs.

The tests of `test_operators.py` are written once over `OPERATIONS`; a new operation adds its entry here.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import discrete_operators
import samples
import sampling_operators
import torch
from operation import (
    Errors,
    Operation,
    device_of,
    not_alike,
    not_blocks,
    not_integers,
    not_one_of,
    not_tensors,
    runnable,
)
from samples import BIG, BIG_LINES, LINES, MODES, PADDINGS, SHAPES, Sample, field, noise
from torch import Tensor

import l2rfast
from l2rfast import filters, lncc, losses
from l2rfast.filters import PADDINGS as BOXES

__all__ = ["MODES", "OPERATIONS", "PADDINGS", "Operation", "Sample", "device_of", "field", "noise", "runnable"]


def masked_local_ncc(a: Tensor, b: Tensor, mask: Tensor, **options: Any) -> Tensor:
    return l2rfast.local_ncc(a, b, mask=mask, **options)


def warp_local_ncc_of_blocks(
    fixed: Tensor, moving: Tensor, disp: Tensor, mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    return l2rfast.warp_local_ncc(fixed, moving, disp, mask=mask, **options)


def weighted_joint_histogram(a: Tensor, b: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """In the images' dtype, as the others."""
    return l2rfast.joint_histogram(a, b, weight=weight, **options).to(a.dtype)


def joint_histogram(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """In the images' dtype, as the others."""
    return l2rfast.joint_histogram(a, b, **options).to(a.dtype)


def integrate_velocity_keeping_fields(velocity: Tensor, steps: int) -> Tensor:
    return l2rfast.integrate_velocity(velocity, steps, keep=True)


def adam_step(gradient: Tensor, mean: Tensor, square: Tensor, factor: Tensor, **options: Any) -> Tensor:
    """Both results, one after the other along the channels."""
    return torch.cat(l2rfast.adam_step(gradient, mean, square, factor, **options), 1)


def _not_windows() -> Errors:
    """What no option of the local NCC may be."""
    for window in (4, 0, -3, 2.5, "3", None, (3, 4), (3, 3, 3, 3), ()):
        yield {"window": window}, "window: expected an odd number"
    yield from not_one_of(weighting=lncc.WEIGHTINGS, border=lncc.BORDERS, semantics=lncc.SEMANTICS)
    for window in (65_537, 2**62 + 1, 2**63 + 1):
        yield {"window": window}, "window: expected at most 65535"
    yield {"semantics": "fireants", "weighting": "gaussian"}, "weighting: expected box or triangular"
    for eps in (0.0, -0.1, math.nan):
        yield {"eps": eps}, "eps: expected a positive number"
    for smooth_nr in (-0.1, math.nan):
        yield {"smooth_nr": smooth_nr}, "smooth_nr: expected 0 or a positive number"


def _not_intensities(good: Tensor) -> Errors:
    """What no image of a joint histogram (2, 3, 5, 4) may be."""
    for name, value in product("ab", (None, good[0, 0, 0], good[:0], good.long(), good.cdouble())):
        yield {name: value}, f"{name}: expected"
    yield {"b": good.flatten(2)}, "a, b: expected one shape"
    yield {"b": good.float()}, "a, b: expected one dtype"
    yield {"b": good.to("meta")}, "a, b: expected one device"


def _not_fitting(good: Tensor) -> Errors:
    """What a fixed image (2, C, 5, 4), a moving one and a field may not be."""
    yield from not_tensors("fixed", "moving", "disp")
    yield {"disp": noise(2, 3, 5, 5)}, "disp: expected one channel per spatial axis"
    yield {"fixed": good}, "fixed: expected the channels of moving and the spatial shape"
    yield {"moving": good[:1]}, "moving, disp: expected shapes that fit"
    yield {"moving": good.float()}, "moving, disp: expected one dtype"
    for name in ("fixed", "moving"):
        yield {name: good.clone().requires_grad_()}, f"{name}: no gradient to it is implemented"


_threads = torch.get_num_threads()
torch.set_num_threads(1)  # for small tensors, as in the tests

OPERATIONS = [
    *sampling_operators.OPERATIONS,
    Operation(
        l2rfast.integrate_velocity,
        lambda sizes: samples.velocities(sizes, (3,), "one way", "whole", "noise"),
        list(samples.velocities(SHAPES, (3, 1, 0), "one way", "whole", "noise")),
        list(samples.velocities(BIG, (7,), "one way")),
        [
            *not_tensors("velocity"),
            *not_integers(steps=0),
            ({"velocity": noise(2, 3, 5, 4)}, "velocity: expected one channel per spatial axis"),
        ],
        ("velocity",),
    ),
    Operation(
        integrate_velocity_keeping_fields,
        lambda sizes: samples.velocities(sizes, (2,), "one way", "whole", "noise"),
        list(samples.velocities(SHAPES, (2,), "one way", "whole", "noise")),
        list(samples.velocities(BIG, (2,), "one way")),
        [*not_tensors("velocity"), *not_integers(steps=0)],
        ("velocity",),
        twice=True,
        made_of="compose",
    ),
    Operation(
        l2rfast.invert,
        lambda sizes: samples.invertible(sizes, tries=[8]),
        list(samples.invertible(SHAPES, tries=[8])),
        list(samples.invertible(BIG, tries=[8])),
        [
            *not_tensors("disp"),
            *[error for error in not_tensors("start") if error[0]["start"] is not None],
            *not_integers(tries=1),
            ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis"),
            ({"start": noise(2, 2, 5, 5)}, "disp, start: expected one shape"),
        ],
        finite=("disp", "start"),
    ),
    Operation(
        l2rfast.compose_steps,
        samples.between_steps,
        list(samples.between_steps(SHAPES)),
        list(samples.between_steps(BIG)),
        [
            *not_tensors("disp", "before", "after"),
            *not_blocks(),
            ({"blocks": (1, 5)}, "blocks: expected none larger than the grid"),
            ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis"),
            ({"before": noise(2, 2, 4, 4)}, "before: expected shape"),
            ({"after": noise(1, 2, 5, 4)}, "after: expected shape"),
        ],
    ),
    Operation(
        adam_step,
        samples.steps,
        list(samples.steps(SHAPES)),
        list(samples.steps(BIG)),
        [
            *not_tensors("gradient", "mean", "square", "factor"),
            *[e for e in not_integers(done=1) if not isinstance(e[0]["done"], Tensor) and "at most" not in e[1]],
            ({"gradient": noise(2, 3, 5, 4)}, "gradient: expected one channel per spatial axis"),
            ({"mean": noise(2, 2, 5, 5)}, "gradient, mean: expected one shape"),
            ({"square": noise(2, 2, 5, 4)}, "gradient, square: expected one shape"),
            ({"factor": noise(2, 1, 5, 5)}, "gradient, factor: expected one shape"),
            *[({name: value}, f"{name}: expected") for name in ("rate", "eps", "beta") for value in (-0.1, math.nan)],
            ({"beta": 1.0}, "beta: expected a number below 1"),
        ],
        made_of="adam_step",
    ),
    Operation(
        l2rfast.jacobian_determinant,
        lambda sizes: samples.noisy("disp", None, sizes),
        list(samples.noisy("disp", None, SHAPES)),
        list(samples.noisy("disp", None, BIG)),
        [*not_tensors("disp"), ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis")],
        ("disp",),
    ),
    Operation(
        l2rfast.digital_jacobian,
        lambda sizes: samples.in_blocks("disp", None, sizes),
        list(samples.noisy("disp", None, SHAPES)) + list(samples.in_blocks("disp", None, SHAPES)),
        list(samples.noisy("disp", None, BIG)) + list(samples.in_blocks("disp", None, BIG)),
        [
            *not_tensors("disp"),
            *not_blocks((5, 4)),
            ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis"),
        ],
    ),
    Operation(
        l2rfast.block_average,
        lambda sizes: samples.in_blocks("image", 3, sizes),
        list(samples.in_blocks("image", 3, SHAPES)),
        list(samples.in_blocks("image", 2, BIG)),
        [*not_tensors("image"), *not_blocks((5, 4))],
        ("image",),
        twice=True,
    ),
    Operation(
        l2rfast.box_average,
        lambda sizes: samples.noisy("image", 3, sizes, radius=[3], passes=[2], padding=BOXES),
        list(samples.noisy("image", 3, SHAPES, radius=[1, 0], passes=[2, 0], padding=BOXES))
        + list(samples.noisy("image", 3, SHAPES, radius=[3], padding=BOXES)),
        list(samples.noisy("image", 2, BIG, radius=[3], passes=[2], padding=BOXES))
        # More than goes through the cache as a whole.
        + list(samples.noisy("image", 1, {3: [(20, 60, 70)]}, radius=[2], passes=[2], padding=BOXES)),
        [*not_tensors("image"), *not_integers(radius=0, passes=0), *not_one_of(padding=BOXES)],
        ("image",),
    ),
    Operation(
        l2rfast.mind_ssc,
        lambda sizes: samples.noisy("image", 1, sizes, radius=[2], dilation=[2], pool=[1]),
        list(samples.noisy("image", 1, SHAPES, radius=[2, 0], dilation=[1, 3])),
        list(samples.noisy("image", 1, BIG, radius=[1], dilation=[2], pool=[1, 4])),
        [
            *not_tensors("image"),
            *not_integers(radius=0, dilation=1, pool=1),
            ({"image": noise(2, 2, 5, 4)}, "image: expected one channel"),
            ({"pool": 5}, "pool: expected at most"),
        ],
    ),
    *discrete_operators.OPERATIONS,
    Operation(
        l2rfast.coupled_convex,
        lambda sizes: samples.coupled_convexes(samples.few(sizes, odd=True), sizes),
        list(samples.coupled_convexes({2: [(5, 5), (1, 7)], 3: [(3, 3, 3), (1, 5, 3)]}, SHAPES)),
        list(samples.coupled_convexes({2: [(5, 7)], 3: [(3, 5, 3)]}, {2: [(20, 30)], 3: [(9, 8, 10)]})),
        [
            *discrete_operators.not_costs("cost"),
            *[({"coefficients": (0.1, a)}, "coefficients: expected positive") for a in (0.0, -0.1, math.nan, "1")],
            *[({"coefficients": value}, "coefficients: expected positive") for value in (0.1, noise(2, 2), None)],
            ({"cost": noise(2, 3, 4, 5, 5)}, "cost: expected odd search sizes"),
        ],
        finite=("cost",),
    ),
    Operation(
        l2rfast.inverse_consistency,
        lambda sizes: samples.noisy("forward backward", None, sizes, iterations=[2]),
        list(samples.noisy("forward backward", None, SHAPES, iterations=[2, 0])),
        list(samples.inverses(BIG)),
        [
            *not_alike("forward", "backward", noise(2, 2, 5, 4)),
            *not_integers(iterations=0),
            ({"forward": noise(2, 3, 5, 4)}, "forward: expected one channel per spatial axis"),
        ],
        ("forward", "backward"),
        twice=True,
        made_of="warp",
    ),
    Operation(
        l2rfast.local_ncc,
        samples.local_nccs,
        list(samples.local_nccs(SHAPES | LINES)),
        list(samples.local_nccs(BIG | BIG_LINES)),
        [*not_alike("a", "b", noise(2, 3, 5, 4)), *_not_windows()],
        ("a", "b"),
    ),
    Operation(
        masked_local_ncc,
        samples.masked_local_nccs,
        list(samples.masked_local_nccs(SHAPES | LINES)),
        list(samples.masked_local_nccs(BIG)),
        [
            *[
                ({"mask": value}, "mask: expected")
                for value in (3, "all", noise(2, 2, 5, 4), noise(3, 1, 5, 4), noise(5, 4))
            ],
            ({"mask": noise(2, 1, 5, 4).to("meta")}, "mask: expected a tensor on cpu"),
        ],
        ("a", "b"),
        made_of="local_ncc",
    ),
    Operation(
        l2rfast.warp_local_ncc,
        samples.warp_local_nccs,
        list(samples.warp_local_nccs(SHAPES)),
        list(samples.warp_local_nccs(BIG)),
        [*_not_fitting(noise(2, 1, 5, 4)), *not_one_of(padding=PADDINGS), *_not_windows()],
        ("disp",),
    ),
    Operation(
        warp_local_ncc_of_blocks,
        samples.warp_local_nccs_of_blocks,
        list(samples.warp_local_nccs_of_blocks(SHAPES)),
        list(samples.warp_local_nccs_of_blocks(BIG)),
        [
            *[({"blocks": value}, "blocks: expected an integer >= 1") for value in (0, 1.5, "2", None, (1, 1, 1))],
            ({"blocks": (7, 1)}, "blocks: expected none larger than the grid"),
            *[({"blocks": 2, "window": value}, "window: expected an odd multiple of") for value in (3, 4, 8, (6, 5))],
        ],
        made_of="warp_local_ncc",
    ),
    Operation(
        l2rfast.warp_ssd,
        samples.warp_ssds,
        list(samples.warp_ssds(SHAPES)),
        list(samples.warp_ssds(BIG)),
        [*_not_fitting(noise(2, 16, 5, 4))],
        ("disp",),
    ),
    Operation(
        joint_histogram,
        samples.histograms,
        list(samples.histograms(SHAPES | LINES)),
        list(samples.histograms(BIG | BIG_LINES)),
        [
            *_not_intensities(noise(2, 3, 5, 4)),
            *not_integers(bins=1),
            *[({"window": w}, "window: expected one") for w in ("sinc", ("cubic", "sinc"), ("cubic",), (), 3)],
            *[
                ({"sigma": sigma}, "sigma: expected a number of at least")
                for sigma in (0, -0.1, math.nan, math.inf, "3")
            ],
        ],
        ("a", "b"),
    ),
    Operation(
        weighted_joint_histogram,
        samples.weighted_histograms,
        list(samples.weighted_histograms(SHAPES | LINES)),
        list(samples.weighted_histograms(BIG)),
        [
            *[({"weight": value}, "weight: expected") for value in (3, noise(2, 3, 5), noise(2, 3, 5, 4).cdouble())],
            ({"weight": noise(2, 3, 5, 4).to("meta")}, "weight: expected real numbers of shape (2, 3, 5, 4) on cpu"),
            ({"weight": noise(2, 3, 5, 4).requires_grad_()}, "weight: no gradient to it is implemented"),
        ],
        ("a", "b"),
        finite=("weight",),
        made_of="joint_histogram",
    ),
    Operation(
        l2rfast.losses.diffusion_energy,
        lambda sizes: samples.noisy("disp", None, sizes, spacing=(None, 0.7)),
        [
            *samples.noisy("disp", None, SHAPES),
            *samples.noisy("disp", None, {2: [(4, 5)]}, spacing=([3, 0.5],)),
            *samples.noisy("disp", None, {3: [(4, 5, 3)]}, spacing=([0.7, 2.0, 1.0],)),
        ],
        list(samples.noisy("disp", None, BIG)),
        [
            ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis"),
            *[
                ({"spacing": spacing}, "spacing: expected")
                for spacing in ([1], [1.0, 0, 2], [1, 2, 3, 4], [1, math.nan, 1], [1, math.inf, 2], "mm", ["a"] * 3)
            ],
        ],
        ("disp",),
    ),
    Operation(
        l2rfast.losses.bending_energy,
        lambda sizes: samples.noisy("disp", None, samples.at_least(5, sizes), stencil=losses.STENCILS),
        [
            *samples.noisy("disp", None, {2: [(6, 5), (5, 7)], 3: [(5, 6, 5)]}, stencil=losses.STENCILS),
            *samples.noisy("disp", None, {2: [(3, 5), (4, 3)], 3: [(3, 4, 5)]}, stencil=("compact",)),
        ],
        list(samples.noisy("disp", None, BIG, stencil=losses.STENCILS)),
        [
            ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis"),
            ({"disp": noise(2, 2, 5, 4)}, "disp: expected at least 5 voxels along every axis"),
            ({"disp": noise(2, 2, 5, 2), "stencil": "compact"}, "disp: expected at least 3 voxels along every axis"),
            *not_one_of(stencil=("wide", "compact")),
        ],
        ("disp",),
    ),
    Operation(
        l2rfast.losses.gradient_energy,
        lambda sizes: samples.noisy("disp", None, samples.at_least(3, sizes), norm=("l2", "l1")),
        list(samples.noisy("disp", None, {2: [(3, 5), (4, 3)], 3: [(3, 4, 5)]}, norm=("l2", "l1"))),
        list(samples.noisy("disp", None, BIG, norm=("l2",))),
        [
            ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis"),
            ({"disp": noise(2, 2, 5, 2)}, "disp: expected at least 3 voxels along every axis"),
            *not_one_of(norm=("l2", "l1")),
        ],
        ("disp",),
    ),
    Operation(
        filters.gaussian_filter,
        lambda sizes: samples.noisy("image", 2, sizes, sigma=(0.7, 2.0)),
        list(samples.noisy("image", 2, SHAPES, sigma=(0.7, 0.2, 2.0))),
        list(samples.noisy("image", 2, BIG, sigma=(1.0, 2.5))),
        [
            ({"sigma": -1.0}, "sigma: expected a number >= 0"),
            ({"sigma": math.inf}, "sigma: expected a number >= 0"),
            ({"sigma": 2.0**64}, "sigma: expected at most 21845"),
        ],
        ("image",),
        twice=True,
        made_of="symmetric_filter",
    ),
]

torch.set_num_threads(_threads)
