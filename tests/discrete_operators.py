"""The layers of the discrete method among the operations."""

from __future__ import annotations

import math
from typing import Any

import samples
import torch
from operation import Errors, Operation, not_alike, not_flags, not_integers, not_one_of, not_tensors
from samples import BIG, BIG_POINTS, BIG_SEARCHES, EDGES, POINTS, SEARCHES, SHAPES, noise
from torch import Tensor

import l2rfast

ODD: samples.Sizes = {2: [(3, 5), (1, 3)], 3: [(3, 1, 5)]}
# Of displacements, and in reverse of control points: few, for the sake of the interpreter.
LATTICES: samples.Sizes = {2: [(3, 2), (1, 2)], 3: [(3, 1, 2)]}
METRICS = ("ssd", "sad", "dot")


def pooled_min_convolution(cost: Tensor) -> Tensor:
    return l2rfast.min_convolution(cost, method="pooled")


def soft_argmin(cost: Tensor, beta: Tensor, **options: Any) -> tuple[Tensor, ...]:
    every = l2rfast.soft_argmin(cost, beta, probabilities=True, entropy=True, **options)
    assert isinstance(every, tuple)
    return every


def shift_labels_on_a_lattice(probabilities: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return l2rfast.shift_labels(probabilities, labels, **options)


def not_costs(name: str, ndim: int = 2) -> Errors:
    """What no cost volume may be: of another type or shape, empty, integer."""
    good = noise(2, *[3] * 2 * ndim)
    for value in (None, good[0], good[..., :0], good.long()):
        yield {name: value}, f"{name}: expected"


def not_positive(name: str) -> Errors:
    for value in (0, -0.1, math.nan, math.inf, "3"):
        yield {name: value}, f"{name}: expected a positive number"
    for tensor in (torch.ones(2), torch.tensor(3), torch.ones(1).to_sparse()):
        yield {name: tensor}, f"{name}: expected one floating number"
    yield {name: torch.ones(1, device="meta")}, f"{name}: expected a tensor on cpu"


def not_per_axis(**minimums: int) -> Errors:
    for name, minimum in minimums.items():
        for value in (minimum - 1, 2.5, "3", None, True, (3,), (3, minimum - 1), (3, 3, 3)):
            yield {name: value}, f"{name}: expected an integer >= {minimum}, or 2 of them"
        yield {name: (1, 2**40)}, f"{name}: expected at most 65535"


def not_extents() -> Errors:
    for value in (-0.1, math.nan, math.inf, "3", (0.5,), (0.5, -0.1)):
        yield {"search_extent": value}, "search_extent: expected a number >= 0, or 2 of them"


OPERATIONS = [
    Operation(
        l2rfast.correlation,
        lambda sizes: samples.noisy(
            "fixed moving", 3, sizes, radius=[1], metric=METRICS, padding=EDGES, smoothing=[2, 0]
        ),
        list(samples.noisy("fixed moving", 3, SHAPES, radius=[1], dilation=[2], padding=EDGES, smoothing=[2, 0]))
        + list(samples.noisy("fixed moving", 3, {2: [(5, 4)]}, radius=[(2, 0)], metric=METRICS, smoothing=[0, 1]))
        + list(samples.noisy("fixed moving", 3, {3: [(3, 4, 3)]}, radius=[(1, 0, 2)], metric=METRICS, padding=EDGES)),
        list(samples.noisy("fixed moving", 3, BIG, radius=[2], metric=METRICS, padding=EDGES, smoothing=[2])),
        [
            *not_alike("fixed", "moving", noise(2, 3, 5, 4)),
            *not_per_axis(radius=0),
            *not_integers(dilation=1, smoothing=0),
            *not_one_of(padding=("zeros", "border"), metric=METRICS),
        ],
        ("fixed", "moving"),
    ),
    Operation(
        l2rfast.lattice_correlation,
        lambda sizes: samples.lattices(samples.few(sizes), sizes),
        list(samples.lattices(LATTICES, {2: [(5, 4), (1, 2)], 3: [(3, 4, 3), (1, 1, 1)]})),
        list(samples.lattices({2: [(17, 5)], 3: [(3, 9, 5)]}, {2: [(30, 40)], 3: [(9, 12, 11)]})),
        [
            *not_alike("fixed", "moving", noise(2, 3, 5, 4)),
            *not_per_axis(grid_size=1, search_size=1),
            *not_extents(),
            *not_flags("align_corners"),
            *not_one_of(metric=("ssd", "dot")),
        ],
        ("fixed", "moving"),
    ),
    Operation(
        l2rfast.min_convolution,
        lambda sizes: samples.costs(samples.few(sizes), sizes, "weight"),
        list(samples.costs(SEARCHES, POINTS, "weight")),
        list(samples.costs(BIG_SEARCHES | {2: [(3, 60)]}, BIG_POINTS, "weight")),
        [
            *not_costs("cost"),
            *not_positive("weight"),
            ({"weight": None}, "weight: expected a positive number for method exact"),
            *not_one_of(method=("exact", "pooled")),
        ],
        ("cost", "weight"),
        finite=("cost", "weight"),
    ),
    Operation(
        pooled_min_convolution,
        lambda sizes: samples.costs(samples.few(sizes), sizes),
        list(samples.costs(SEARCHES, POINTS)),
        list(samples.costs(BIG_SEARCHES, BIG_POINTS)),
        [*not_costs("cost")],
        ("cost",),
        finite=("cost",),
    ),
    Operation(
        l2rfast.mean_field,
        lambda sizes: samples.costs(samples.few(sizes), sizes, radius=[1], passes=[2]),
        list(samples.costs(SEARCHES, POINTS, radius=[1, 2], passes=[2, 1]))
        + list(samples.costs(SEARCHES, POINTS, radius=[0])),
        list(samples.costs(BIG_SEARCHES, BIG_POINTS, radius=[1, 3])),
        [*not_costs("cost"), *not_integers(radius=0, passes=0)],
        ("cost",),
        made_of="box_average",
    ),
    Operation(
        soft_argmin,
        lambda sizes: samples.costs(samples.few(sizes), sizes, "beta", dilation=[2, 0.7]),
        list(samples.costs(SEARCHES, POINTS, "beta", dilation=[2, 0.7])),
        list(samples.costs(BIG_SEARCHES, BIG_POINTS, "beta")),
        [
            *not_costs("cost"),
            *not_positive("beta"),
            *[({"dilation": d}, "dilation: expected a finite number") for d in (math.nan, math.inf, "3", (1, 2, 3))],
        ],
        ("cost", "beta"),
        finite=("beta",),
    ),
    Operation(
        l2rfast.shift_labels,
        lambda sizes: samples.label_shifts(samples.few(sizes, odd=True), sizes),
        list(samples.label_shifts(ODD, {2: [(5, 4), (1, 2)], 3: [(3, 4, 3)]})),
        list(samples.label_shifts(ODD, BIG)),
        [
            *not_tensors("labels"),
            *not_costs("probabilities"),
            ({"labels": noise(3, 3, 5, 4)}, "probabilities, labels: expected one batch size"),
            ({"labels": noise(2, 3, 5, 4).float()}, "probabilities, labels: expected one dtype"),
            ({"labels": noise(2, 3, 5, 5)}, "probabilities: expected odd search sizes and the spatial size (5, 5)"),
            ({"probabilities": noise(2, 2, 3, 5, 4)}, "probabilities: expected odd search sizes"),
            *not_integers(dilation=1),
            *not_one_of(padding=("zeros", "border")),
        ],
        ("probabilities", "labels"),
        twice=True,
        made_of="correlation_backward",
    ),
    Operation(
        shift_labels_on_a_lattice,
        lambda sizes: samples.lattice_label_shifts(samples.few(sizes), sizes),
        list(samples.lattice_label_shifts(LATTICES, {2: [(5, 4), (1, 2)], 3: [(3, 4, 3)]})),
        list(samples.lattice_label_shifts(BIG_SEARCHES, {2: [(30, 40)], 3: [(9, 12, 11)]})),
        [*not_extents(), *not_flags("align_corners")],
        ("probabilities", "labels"),
        twice=True,
        made_of="lattice_correlation_backward",
    ),
]
