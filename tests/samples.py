"""Inputs for the tests: noise, places in and around an image, and calls of every operation made of them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from itertools import chain, product
from typing import Any, ParamSpec

import torch
from torch import Tensor

Size = tuple[int, ...]
Sizes = dict[int, list[Size]]

MODES = ("linear", "nearest")
PADDINGS = ("border", "zeros", "reflection")
EDGES = ("border", "zeros")
# Sizes of 1 and 2 are where stencils and taps meet the border from both sides.
SHAPES: Sizes = {2: [(5, 4), (1, 2), (2, 7), (1, 1)], 3: [(3, 4, 3), (1, 2, 6), (4, 1, 2), (1, 1, 1)]}
LINES: Sizes = {1: [(7,), (2,), (1,)]}
BIG_LINES: Sizes = {1: [(500,)]}
# Several blocks of every loop in the kernels, and enough planes for several threads.
BIG: Sizes = {2: [(70, 300)], 3: [(9, 40, 30)]}
# Plus one with align_corners, they are the sizes whose positions in a normalised grid are exact in float32.
POWERS: Sizes = {2: [(4, 2), (1, 8)], 3: [(2, 4, 2), (1, 2, 8)]}
# Displacements, few and many, and control points.
SEARCHES: Sizes = {2: [(3, 5), (1, 4)], 3: [(3, 2, 4)]}
BIG_SEARCHES: Sizes = {2: [(9, 7)], 3: [(5, 3, 7)]}
POINTS: Sizes = {2: [(3, 2), (1, 1)], 3: [(2, 1, 3)]}
BIG_POINTS: Sizes = {2: [(17, 19)], 3: [(5, 8, 9)]}
BIG_POWERS: Sizes = {2: [(64, 256)], 3: [(8, 32, 32)]}

P = ParamSpec("P")

_generator = torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Sample:
    """One call, in float64. Where it is smooth, the operation is differentiable."""

    name: str
    inputs: dict[str, Tensor]
    options: dict[str, Any]
    smooth: bool = True

    def without(self, option: str) -> Sample:
        return replace(self, options={name: value for name, value in self.options.items() if name != option})


@dataclass(frozen=True)
class Case:
    """An image of that size, and places where to sample it: how many of each in the batch, where the places are."""

    size: Size
    images: int = 2
    fields: int = 2
    smooth: bool = True

    @property
    def out(self) -> Size:
        """Another size than that of the image."""
        return (self.size[-1] + 1, *self.size[:-1])

    @property
    def name(self) -> str:
        return _name(self.size, "smooth" if self.smooth else "special", (self.images, self.fields))

    def image(self, channels: int = 3) -> Tensor:
        return noise(self.images, channels, *self.size)

    def positions(self, *, finite: bool = False) -> Tensor:
        return positions(self.size, self.out, batch=self.fields, smooth=self.smooth, finite=finite)

    def disp(self, *, finite: bool = False) -> Tensor:
        return self.positions(finite=finite) - coordinates(self.out)


def seed(number: int) -> None:
    """Of all that is drawn here."""
    _generator.manual_seed(number)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=_generator)


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=_generator)


def seeded(samples: Callable[P, Iterator[Sample]]) -> Callable[P, Iterator[Sample]]:
    """The same samples whatever other tests draw."""

    @wraps(samples)
    def own(*args: P.args, **kwargs: P.kwargs) -> Iterator[Sample]:
        _generator.manual_seed(zlib.crc32(f"{samples.__name__} {args} {kwargs}".encode()))
        yield from samples(*args, **kwargs)

    return own


def by_point(cost: Tensor) -> Tensor:
    """(1, *search, *grid) -> (points, *search)."""
    return cost[0].flatten(3).movedim(-1, 0)


def by_displacement(cost: Tensor) -> Tensor:
    """(1, *search, *grid) -> (displacements, *grid)."""
    return cost[0].flatten(0, 2)


def on_64ths(x: Tensor) -> Tensor:
    """Such positions are exact in float32: every dtype has the same nearest voxels and the same slopes."""
    return torch.round(64 * x) / 64


def coordinates(size: Size) -> Tensor:
    """(ndim, *size): every voxel's own position."""
    return torch.stack(torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in size), indexing="ij"))


def positions(size: Size, out: Size, *, batch: int = 2, smooth: bool = True, finite: bool = True) -> Tensor:
    """Places (batch, ndim, *out) in and around an image of that size.

    Smooth: away from grid points and from half-way between them. Otherwise a third of the coordinates are on
    grid points, on the border, half-way, far outside, or, unless they have to be finite, nowhere.
    """
    components = []
    for s in size:
        random = uniform(4, batch, *out)
        fraction = 0.1 + 0.3 * random[0] + 0.5 * (random[1] < 0.5)
        position = torch.floor((s + 3) * random[2]) - 2 + on_64ths(fraction)
        if not smooth:
            special = [0, s - 1, -1, s, -0.5, s - 0.5, s // 2, 20.25, -20.25, 1000.25]
            special += [] if finite else [torch.nan, torch.inf, -torch.inf]
            chosen = torch.randint(len(special), (batch, *out), generator=_generator)
            position = torch.where(random[3] < 1 / 3, torch.tensor(special, dtype=torch.float64)[chosen], position)
        components.append(position)
    return torch.stack(components, 1)


def field(size: Size, out: Size, *, smooth: bool = True) -> Tensor:
    """Finite displacements (2, ndim, *out) to such places."""
    return positions(size, out, smooth=smooth) - coordinates(out)


def normalised(positions: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Positions (N, ndim, *out) in voxels as the grid (N, *out, ndim) of grid_sample."""
    p, s = positions.movedim(1, -1).flip(-1), torch.tensor(list(reversed(size)), dtype=positions.dtype)
    return 2 * p / (s - 1).clamp(min=1) - 1 if align_corners else (2 * p + 1) / s - 1


def _name(*parts: Any) -> str:
    return "-".join("x".join(map(str, p)) if isinstance(p, tuple) else str(p) for p in parts)


def _cases(sizes: Sizes, **options: Sequence[Any]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Where to sample an image and every combination of options."""
    for size, smooth, *values in product(chain(*sizes.values()), (False, True), *options.values()):
        yield Case(size, smooth=smooth), dict(zip(options, values, strict=True))


def _broadcasts(sizes: Sizes, **options: Sequence[Any]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """One image for two fields, and the reverse, with the first of all options and with the last."""
    for (size, *_), (images, fields), i in product(sizes.values(), ((1, 2), (2, 1)), (0, -1)):
        yield Case(size, images, fields), {name: values[i] for name, values in options.items()}


def _all(sizes: Sizes, **options: Sequence[Any]) -> Iterator[tuple[Case, dict[str, Any]]]:
    return chain(_cases(sizes, **options), _broadcasts(sizes, **options))


def _sample(case: Case, options: dict[str, Any], **inputs: Tensor) -> Sample:
    return Sample(_name(case.name, *options.values()), inputs, options, case.smooth)


@seeded
def noisy(names: str, channels: int | None, sizes: Sizes, **options: Iterable[Any]) -> Iterator[Sample]:
    """Inputs of noise in so many channels (None: one per axis), for every size and combination of options."""
    for size, *values in product(chain(*sizes.values()), *options.values()):
        inputs = {name: noise(2, channels or len(size), *size) for name in names.split()}
        yield Sample(_name(size, *values), inputs, dict(zip(options, values, strict=True)))


@seeded
def local_nccs(sizes: Sizes, channels: int = 3) -> Iterator[Sample]:
    """Of noise, with every option in some combination."""
    choices: list[dict[str, Any]] = [
        {"window": 9, "eps": 0.1},
        {"window": 3, "weighting": "gaussian", "border": "valid", "eps": 0.1},
        {"window": (3, 1, 5), "border": "valid", "reduction": "none", "eps": 0.1},
        {"window": 5, "weighting": "triangular", "semantics": "monai", "reduction": "sum", "eps": 0.01},
        {"window": 3, "semantics": "monai", "smooth_nr": 0.2, "eps": 0.5},
        {"window": 3, "semantics": "fireants", "smooth_nr": 0.1, "reduction": "none", "eps": 0.1},
    ]
    for size, chosen in product(chain(*sizes.values()), choices):
        # MONAI's value of two voxels is 1, whatever they are, and its gradient nothing but rounding.
        if chosen.get("semantics") == "monai" and math.prod(size) < 6:
            continue
        a, b = noise(2, channels, *size), noise(2, channels, *size)
        window = chosen["window"]
        options = chosen | {"window": window[: len(size)] if isinstance(window, tuple) else window}
        yield Sample(_name(size, *options.values()), {"a": a, "b": b}, options)


@seeded
def masked_local_nccs(sizes: Sizes) -> Iterator[Sample]:
    """With masks of every item, or of all."""
    for i, sample in enumerate(local_nccs(sizes, 2)):
        size = sample.inputs["a"].shape[2:]
        mask = (uniform(1 + i % 2, 1, *size) < 0.7).double()
        yield Sample(f"{sample.name}-masked", sample.inputs | {"mask": mask}, sample.options)


@seeded
def histograms(sizes: Sizes) -> Iterator[Sample]:
    """Of intensities within the bins and beyond, with every window. Special: on bins, on the outer ones, half-way."""
    choices: list[dict[str, Any]] = [
        {"bins": 7},
        {"bins": 12, "window": "gaussian", "sigma": 1.7},
        {"bins": 35, "window": "cubic"},
        {"bins": 3, "window": ("cubic", "box")},
        {"bins": 5, "window": ("box", "gaussian"), "sigma": 0.3},
    ]
    for size, options, smooth in product(chain(*sizes.values()), choices, (True, False)):
        parts = 64 if smooth else 2  # of a bin
        a, b = ((parts * (1 + options["bins"]) * uniform(2, 3, *size)).floor() / parts - 1 for _ in range(2))
        a, b = (image + 1 / 128 if smooth else image for image in (a, b))
        yield Sample(_name(size, *options.values(), smooth), {"a": a, "b": b}, options, smooth)


@seeded
def weighted_histograms(sizes: Sizes) -> Iterator[Sample]:
    """With weights, of which some are 0."""
    for sample in histograms(sizes):
        weight = (uniform(*sample.inputs["a"].shape) - 0.3).clamp(min=0) + 0.125
        yield Sample(f"{sample.name}-weighted", sample.inputs | {"weight": weight}, sample.options, sample.smooth)


@seeded
def warp_local_nccs(sizes: Sizes) -> Iterator[Sample]:
    for i, (case, options) in enumerate(_cases(sizes, padding=PADDINGS, window=(3, 5))):
        fixed, moving = noise(2, 1 + i % 2, *case.out), case.image(1 + i % 2)
        yield _sample(case, options | {"eps": 0.1}, fixed=fixed, moving=moving, disp=case.disp(finite=True))


@seeded
def warp_local_nccs_of_blocks(sizes: Sizes) -> Iterator[Sample]:
    """With a mask of every item or of all; blocks of another side along each axis, and voxels beyond the last."""
    sides = 2, 3, 1
    for i, (case, options) in enumerate(_cases(sizes, padding=PADDINGS, masked=(False, True))):
        blocks = [min(side, size) for side, size in zip((sides + sides)[i % 3 :], case.out, strict=False)]
        chosen = {
            "blocks": blocks,
            "window": [side * (3, 5)[(i + k) % 2] for k, side in enumerate(blocks)],
            "padding": options["padding"],
            "eps": 0.1,
            **({"weighting": "triangular", "border": "valid"} if i % 4 == 3 else {}),
        }
        fixed, moving = noise(2, 1 + i % 2, *case.out), case.image(1 + i % 2)
        mask = (uniform(1 + i % 2, 1, *case.out) < 0.6).double()
        inputs = {"fixed": fixed, "moving": moving, "disp": case.disp(finite=True)}
        yield _sample(case, chosen, **inputs, **({"mask": mask} if options["masked"] else {}))


@seeded
def warps(sizes: Sizes, paddings: Sequence[str] = PADDINGS) -> Iterator[Sample]:
    for case, options in _all(sizes, mode=MODES, padding=paddings):
        yield _sample(case, options, image=case.image(), disp=case.disp())


@seeded
def spline_warps(sizes: Sizes, paddings: Sequence[str] = PADDINGS) -> Iterator[Sample]:
    for case, options in _all(sizes, padding=paddings, prefilter=(True, False)):
        yield _sample(case, options, image=case.image(), disp=case.disp())


@seeded
def warps_of_two(sizes: Sizes, paddings: Sequence[str] = EDGES) -> Iterator[Sample]:
    for case, options in _all(sizes, modes=[("linear", "nearest"), ("linear", "linear")], padding=paddings):
        yield _sample(case, options, image=case.image(), labels=case.image(1), disp=case.disp())


@seeded
def warps_with_gradient(sizes: Sizes, paddings: Sequence[str] = PADDINGS) -> Iterator[Sample]:
    for case, options in _all(sizes, padding=paddings):
        yield _sample(case, options, image=case.image(), disp=case.disp())


@seeded
def grids(sizes: Sizes, powers: Sizes, paddings: Sequence[str] = PADDINGS) -> Iterator[Sample]:
    for align in (False, True):
        exact = {ndim: [tuple(s + align for s in size) for size in powers[ndim]] for ndim in powers}
        choices = {"mode": ("bilinear", "nearest"), "padding_mode": paddings, "align_corners": [align]}
        special = ((case, options) for case, options in _cases(exact, **choices) if not case.smooth)
        smooth = ((case, options) for case, options in _all(sizes, **choices) if case.smooth)
        for case, options in chain(special, smooth):
            grid = normalised(case.positions(), case.size, align)
            yield _sample(case, options, input=case.image(), grid=grid)


@seeded
def affine_warps(sizes: Sizes, paddings: Sequence[str] = PADDINGS) -> Iterator[Sample]:
    """Smooth: every position is an odd multiple of 2^-13. Otherwise on grid points, half-way and nowhere."""
    for case, options in _all(sizes, mode=MODES, padding=paddings):
        ndim, parts = len(case.size), 2**12 if case.smooth else 2
        moves = torch.tensor([*(1 / s for s in case.size), 1])  # a coefficient moves some voxels, whatever the size
        matrix = torch.eye(ndim, ndim + 1) + torch.round(parts * moves * noise(case.fields, ndim, ndim + 1)) / parts
        zeros = options["padding"] == "zeros"
        if case.smooth:
            matrix[..., -1] += 0.5 / parts
        elif options["mode"] == "linear":
            matrix[0, 0, 1 if zeros else -1] = torch.inf if zeros else torch.nan
        options["size"] = case.out if zeros else None
        yield _sample(case, options, image=case.image(), matrix=matrix)


@seeded
def displaced_affine_warps(sizes: Sizes, paddings: Sequence[str] = PADDINGS) -> Iterator[Sample]:
    for case, options in _all(sizes, mode=MODES, padding=paddings, outside=(None, 7)):
        ndim = len(case.size)
        matrix = torch.eye(ndim, ndim + 1) + torch.round(2 * noise(case.fields, ndim, ndim + 1)) / 8
        yield _sample(case, options, image=case.image(), matrix=matrix, disp=case.disp())


@seeded
def compositions(sizes: Sizes) -> Iterator[Sample]:
    for case, options in _all(sizes):
        yield _sample(case, options, outer=case.image(len(case.size)), inner=case.disp())


@seeded
def velocities(sizes: Sizes, steps: Iterable[int], *kinds: str) -> Iterator[Sample]:
    """One way: less than a voxel and of one sign, as all that is integrated from it: never on a grid point.

    Whole: all that is integrated is on grid points. Noise: anywhere.
    """
    for size, n, kind in product(chain(*sizes.values()), steps, kinds):
        shape = (2, len(size), *size)
        velocity = {
            "one way": (0.1 + 0.8 * uniform(*shape)) * noise(2, len(size), *[1] * len(size)).sign(),
            "whole": 2.0**n * torch.randint(-2, 3, shape, generator=_generator),
            "noise": 2 * noise(*shape),
        }[kind]
        yield Sample(_name(size, n, kind), {"velocity": velocity}, {"steps": n}, kind != "whole")


@seeded
def warp_ssds(sizes: Sizes) -> Iterator[Sample]:
    for (case, options), c in product(_cases(sizes), (16, 3)):  # 16: one vector of the kernel
        yield _sample(case, options, fixed=noise(2, c, *case.out), moving=case.image(c), disp=case.disp(finite=True))


@seeded
def inverses(sizes: Sizes) -> Iterator[Sample]:
    for size in chain(*sizes.values()):
        yield Sample(_name(size), {"forward": field(size, size), "backward": field(size, size)}, {"iterations": 1})


@seeded
def invertible(sizes: Sizes, **options: Iterable[Any]) -> Iterator[Sample]:
    """Fields too small to fold, and something near their inverses."""
    for size, *values in product(chain(*sizes.values()), *options.values()):
        field, apart = (noise(2, len(size), *size) / 10 for _ in range(2))
        inputs = {"disp": field, "start": apart - field}
        yield Sample(_name(size, *values), inputs, dict(zip(options, values, strict=True)))


@seeded
def steps(sizes: Sizes) -> Iterator[Sample]:
    """Gradients, their means and squares."""
    for size in chain(*sizes.values()):
        gradient, mean = (noise(2, len(size), *size) for _ in range(2))
        inputs = {"gradient": gradient, "mean": mean, "square": uniform(2, 1, *size), "factor": uniform(2, 1, *size)}
        yield Sample(_name(size), inputs, {"done": 3, "rate": 1.3, "eps": 0.1})


@seeded
def in_blocks(name: str, channels: int | None, sizes: Sizes) -> Iterator[Sample]:
    """Noise, see `noisy`, and blocks of one voxel, of more, and of a longer axis."""
    for size, side in product(chain(*sizes.values()), (1, 2, 3)):
        blocks = _blocks(size, side)
        yield Sample(_name(size, blocks), {name: noise(2, channels or len(size), *size)}, {"blocks": blocks})


def _blocks(size: Size, side: int) -> list[int]:
    """Of about that side, along one axis of another; no larger than the grid."""
    return [min(side + (axis == 1 and side > 1), n) for axis, n in enumerate(size)]


@seeded
def between_steps(sizes: Sizes) -> Iterator[Sample]:
    """Fields, and steps before and after them on blocks of one and of more voxels, shorter and longer than those."""
    for size, side, length in product(chain(*sizes.values()), (1, 2, 3), (0.3, 1.5)):
        blocks = _blocks(size, side)
        coarse = [n // s for n, s in zip(size, blocks, strict=True)]
        inputs = {"disp": noise(2, len(size), *size) / 2}
        inputs |= {name: length * noise(2, len(size), *coarse) for name in ("before", "after")}
        yield Sample(_name(size, blocks, length), inputs, {"blocks": blocks})


def at_least(n: int, sizes: Sizes) -> Sizes:
    return {ndim: [tuple(max(n, s) for s in size) for size in of] for ndim, of in sizes.items()}


def few(sizes: Sizes, *, odd: bool = False) -> Sizes:
    """As few displacements or points, whatever the sizes of images, as a volume for each of them leaves room for."""
    counts = {2: (5, 3, 7, 1), 3: (3, 1, 5)} if odd else {2: (2, 5, 3, 4, 1), 3: (3, 1, 2)}
    return {
        ndim: [tuple(counts[ndim][(n + axis) % len(counts[ndim])] for axis, n in enumerate(size)) for size in of]
        for ndim, of in sizes.items()
    }


def _searches(searches: Sizes, sizes: Sizes) -> Iterator[tuple[Size, Size]]:
    return chain(*(product(searches[ndim], sizes[ndim]) for ndim in sizes))


@seeded
def costs(searches: Sizes, sizes: Sizes, *numbers: str, **options: Iterable[Any]) -> Iterator[Sample]:
    """Cost volumes, and a positive number for each name."""
    for (search, size), *values in product(_searches(searches, sizes), *options.values()):
        inputs = {"cost": noise(3, *search, *size)} | {name: 0.25 + uniform(1) for name in numbers}
        yield Sample(_name(search, size, *values), inputs, dict(zip(options, values, strict=True)))


@seeded
def lattices(searches: Sizes, sizes: Sizes, channels: int = 3) -> Iterator[Sample]:
    """Features, and as many control points along each axis as there are displacements along another."""
    for (search, size), align, metric in product(_searches(searches, sizes), (False, True), ("ssd", "dot")):
        inputs = {name: noise(2, channels, *size) for name in ("fixed", "moving")}
        options = {"grid_size": search[::-1], "search_size": search, "search_extent": 0.43, "metric": metric}
        yield Sample(_name(search, size, align, metric), inputs, options | {"align_corners": align})


@seeded
def label_shifts(searches: Sizes, sizes: Sizes) -> Iterator[Sample]:
    for (search, size), padding in product(_searches(searches, sizes), EDGES):
        inputs = {"probabilities": uniform(2, *search, *size), "labels": noise(2, 3, *size)}
        yield Sample(_name(search, size, padding), inputs, {"padding": padding, "dilation": 2})


@seeded
def lattice_label_shifts(searches: Sizes, sizes: Sizes) -> Iterator[Sample]:
    for (search, size), align in product(_searches(searches, sizes), (False, True)):
        inputs = {"probabilities": uniform(2, *search, *search[::-1]), "labels": noise(2, 3, *size)}
        yield Sample(_name(search, size, align), inputs, {"search_extent": 0.43, "align_corners": align})


@seeded
def coupled_convexes(searches: Sizes, sizes: Sizes) -> Iterator[Sample]:
    """Cost volumes without ties, in bfloat16 neither: an arg-min that differs is a bug."""
    # No multiple of a coefficient by a squared distance equals a difference of two costs.
    options = {"coefficients": (0.0137, 0.217, 0.83)}
    for search, size in _searches(searches, sizes):
        order = noise(2, math.prod(search), *size).argsort(1)
        yield Sample(_name(search, size), {"cost": (order / 4.0).double().reshape(2, *search, *size)}, options)
