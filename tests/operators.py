"""Every public operation with its sample inputs and its error inputs, in the manner of PyTorch's OpInfo.

The tests of `test_operators.py` are written once over `OPERATIONS`; a new operation adds its entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor

import l2rfast
from l2rfast._dispatch import OPERATORS

Size = tuple[int, ...]
Sizes = dict[int, list[Size]]
Errors = Iterator[tuple[dict[str, Any], str]]

MODES = ("linear", "nearest")
PADDINGS = ("border", "zeros", "reflection")
EDGES = ("border", "zeros")
# Sizes of 1 and 2 are where stencils and taps meet the border from both sides.
SHAPES: Sizes = {2: [(5, 4), (1, 2), (2, 7), (1, 1)], 3: [(3, 4, 3), (1, 2, 6), (4, 1, 2), (1, 1, 1)]}
# Several blocks of every loop in the kernels, and enough planes for several threads.
BIG: Sizes = {2: [(70, 300)], 3: [(9, 40, 30)]}

_generator = torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Sample:
    """One call, in float64. Where it is smooth, the operation is differentiable."""

    name: str
    inputs: dict[str, Tensor]
    options: dict[str, Any]
    smooth: bool = True


@dataclass(frozen=True)
class Operation:
    """A public function.

    Attributes:
        samples: calls small enough to differentiate by every number.
        big: calls of the sizes BIG.
        errors: changes to the arguments of the first sample, and how the message that they give begins.
        differentiable: the inputs that gradients go to.
    """

    function: Callable[..., Any]
    samples: list[Sample]
    big: list[Sample]
    errors: list[tuple[dict[str, Any], str]]
    differentiable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def backends(self) -> list[str]:
        operator = OPERATORS.get(self.name, OPERATORS["warp"])  # what is no operator is made of warps
        return operator.backends()

    def some(self) -> list[Sample]:
        """A sample in 2-D and one in 3-D: for what takes seconds, and tells nothing new for more."""
        by_ndim = {next(iter(s.inputs.values())).ndim: s for s in reversed(self.samples) if s.smooth}
        return list(by_ndim.values())


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=_generator)


def on_64ths(x: Tensor) -> Tensor:
    """Such positions are exact in float32: every dtype has the same nearest voxels and the same slopes."""
    return torch.round(64 * x) / 64


def field(size: Size, out: Size, *, smooth: bool = True) -> Tensor:
    """Displacements (2, ndim, *out) to places in and around an image of that size.

    Smooth: away from grid points and from half-way between them. Otherwise a third of the coordinates are on
    grid points, on the border, half-way, or far outside.
    """
    components = []
    for axis, (s, o) in enumerate(zip(size, out, strict=True)):
        uniform = torch.rand(4, 2, *out, dtype=torch.float64, generator=_generator)
        fraction = 0.1 + 0.3 * uniform[0] + 0.5 * (uniform[1] < 0.5)
        position = torch.floor((s + 3) * uniform[2]) - 2 + on_64ths(fraction)
        if not smooth:
            special = torch.tensor([0, s - 1, -1, s, -0.5, s - 0.5, s // 2, 20.25, -20.25], dtype=torch.float64)
            chosen = special[torch.randint(len(special), (2, *out), generator=_generator)]
            position = torch.where(uniform[3] < 1 / 3, chosen, position)
        components.append(position - torch.arange(o).view(-1, *[1] * (len(out) - 1 - axis)))
    return torch.stack(components, 1)


def _name(*parts: Any) -> str:
    return "-".join("x".join(map(str, p)) if isinstance(p, tuple) else str(p) for p in parts)


def _noisy(names: str, channels: int | None, sizes: Sizes, **options: Iterable[Any]) -> Iterator[Sample]:
    """Inputs of noise in so many channels (None: one per axis), for every size and combination of options."""
    for size, *values in product(chain(*sizes.values()), *options.values()):
        inputs = {name: noise(2, channels or len(size), *size) for name in names.split()}
        yield Sample(_name(size, *values), inputs, dict(zip(options, values, strict=True)))


def _fields(sizes: Sizes) -> Iterator[tuple[Size, Size, bool]]:
    """Size of an image, size of a field that samples it, and whether that field is smooth."""
    for size, smooth in product(chain(*sizes.values()), (False, True)):
        yield size, (size[-1] + 1, *size[:-1]), smooth


def _warps(sizes: Sizes) -> Iterator[Sample]:
    for (size, out, smooth), mode, padding in product(_fields(sizes), MODES, PADDINGS):
        inputs = {"image": noise(2, 3, *size), "disp": field(size, out, smooth=smooth)}
        name = _name(size, mode, padding, "smooth" if smooth else "special")
        yield Sample(name, inputs, {"mode": mode, "padding": padding}, smooth)


def _affine_warps(sizes: Sizes) -> Iterator[Sample]:
    for size, mode, padding in product(chain(*sizes.values()), MODES, PADDINGS):
        moves = torch.tensor([*(1 / s for s in size), 1])  # each coefficient moves some voxels, whatever the size
        matrix = torch.eye(len(size), len(size) + 1) + on_64ths(moves * noise(2, len(size), len(size) + 1))
        out = [s + 1 for s in size] if padding == "zeros" else None
        inputs = {"image": noise(2, 3, *size), "matrix": matrix}
        yield Sample(_name(size, mode, padding), inputs, {"size": out, "mode": mode, "padding": padding})


def _warp_ssds(sizes: Sizes) -> Iterator[Sample]:
    for (size, out, smooth), c in product(_fields(sizes), (16, 3)):  # 16: one vector of the kernel
        disp = field(size, out, smooth=smooth)
        inputs = {"fixed": noise(2, c, *out), "moving": noise(2, c, *size), "disp": disp}
        yield Sample(_name(size, c, "smooth" if smooth else "special"), inputs, {}, smooth)


def _inverses(sizes: Sizes) -> Iterator[Sample]:
    for size in chain(*sizes.values()):
        yield Sample(_name(size), {"forward": field(size, size), "backward": field(size, size)}, {"iterations": 1})


def _coupled_convexes(searches: Sizes, sizes: Sizes) -> Iterator[Sample]:
    """Cost volumes without ties, in bfloat16 neither: an arg-min that differs is a bug."""
    # No multiple of a coefficient by a squared distance equals a difference of two costs.
    options = {"coefficients": (0.0137, 0.217, 0.83)}
    for search, size in chain(*(product(searches[ndim], sizes[ndim]) for ndim in sizes)):
        order = noise(2, math.prod(search), *size).argsort(1)
        yield Sample(_name(search, size), {"cost": (order / 4.0).double().reshape(2, *search, *size)}, options)


def _not_tensors(*names: str) -> Errors:
    """What no tensor argument may be: of another type, flat, empty, integer, complex."""
    good = noise(2, 2, 5, 4)
    for name, value in product(names, (None, good[0, 0], good[:0], good.long(), good.cdouble())):
        yield {name: value}, f"{name}: expected"


def _not_integers(**minimums: int) -> Errors:
    for name, minimum in minimums.items():
        for value in (minimum - 1, 2.5, "3", None):
            yield {name: value}, f"{name}: expected an integer >= {minimum}"


def _not_one_of(**allowed: tuple[str, ...]) -> Errors:
    for name, values in allowed.items():
        yield {name: "cubic"}, f"{name}: expected one of {', '.join(values)}"


def _not_alike(first: str, second: str, like: Tensor) -> Errors:
    """What two tensors may not differ in."""
    yield from _not_tensors(first, second)
    yield {second: noise(*like.shape[:-1], 9)}, f"{first}, {second}: expected one shape"
    yield {second: like.float()}, f"{first}, {second}: expected one dtype"
    yield {second: like.to("meta")}, f"{first}, {second}: expected one device"


OPERATIONS = [
    Operation(
        l2rfast.warp,
        list(_warps(SHAPES)),
        list(_warps(BIG)),
        [
            *_not_tensors("image", "disp"),
            *_not_one_of(mode=MODES, padding=PADDINGS),
            ({"disp": noise(2, 3, 5, 5)}, "disp: expected one channel per spatial axis"),
            ({"disp": noise(2, 3, 5, 4, 4)}, "image, disp: expected as many spatial axes"),
            ({"disp": noise(3, 2, 5, 5)}, "image, disp: expected one batch size"),
            ({"disp": noise(2, 2, 5, 5).to("meta")}, "image, disp: expected one device"),
            ({"image": noise(2, 2, 5, 4).cfloat(), "mode": "nearest"}, "image: expected a real dtype"),
        ],
        ("image", "disp"),
    ),
    Operation(
        l2rfast.affine_warp,
        list(_affine_warps(SHAPES)),
        list(_affine_warps(BIG)),
        [
            *_not_tensors("image", "matrix"),
            *_not_one_of(mode=MODES, padding=PADDINGS),
            ({"matrix": noise(1, 2, 3)}, "matrix: expected a floating tensor of shape (2, 2, 3)"),
            ({"matrix": noise(2, 2, 3).to("meta")}, "image, matrix: expected one device"),
            *[({"size": s}, "size: expected 2 positive") for s in ((5,), (5, 0), (5, -1), (5, 2.5), (5, "4"))],
        ],
    ),
    Operation(
        l2rfast.jacobian_determinant,
        list(_noisy("disp", None, SHAPES)),
        list(_noisy("disp", None, BIG)),
        [*_not_tensors("disp"), ({"disp": noise(2, 3, 5, 4)}, "disp: expected one channel per spatial axis")],
    ),
    Operation(
        l2rfast.box_average,
        list(_noisy("image", 3, SHAPES, radius=[1, 0], passes=[2, 0], padding=EDGES))
        + list(_noisy("image", 3, SHAPES, radius=[3], padding=EDGES)),
        list(_noisy("image", 2, BIG, radius=[3], passes=[2], padding=EDGES)),
        [*_not_tensors("image"), *_not_integers(radius=0, passes=0), *_not_one_of(padding=EDGES)],
        ("image",),
    ),
    Operation(
        l2rfast.mind_ssc,
        list(_noisy("image", 1, SHAPES, radius=[2, 0], dilation=[1, 3])),
        list(_noisy("image", 1, BIG, radius=[1], dilation=[2], pool=[1, 4])),
        [
            *_not_tensors("image"),
            *_not_integers(radius=0, dilation=1, pool=1),
            ({"image": noise(2, 2, 5, 4)}, "image: expected one channel"),
            ({"pool": 5}, "pool: expected at most"),
        ],
    ),
    Operation(
        l2rfast.correlation,
        list(_noisy("fixed moving", 3, SHAPES, radius=[1], dilation=[2], padding=EDGES, smoothing=[2, 0])),
        list(_noisy("fixed moving", 3, BIG, radius=[2], padding=EDGES, smoothing=[2])),
        [
            *_not_alike("fixed", "moving", noise(2, 3, 5, 4)),
            *_not_integers(radius=0, dilation=1, smoothing=0),
            *_not_one_of(padding=("zeros", "border")),
        ],
    ),
    Operation(
        l2rfast.coupled_convex,
        list(_coupled_convexes({2: [(5, 5), (1, 7)], 3: [(3, 3, 3), (1, 5, 3)]}, SHAPES)),
        list(_coupled_convexes({2: [(5, 7)], 3: [(3, 5, 3)]}, {2: [(20, 30)], 3: [(9, 8, 10)]})),
        [
            *_not_tensors("cost"),
            *[({"coefficients": (0.1, a)}, "coefficients: expected positive") for a in (0.0, -0.1, math.nan)],
            ({"cost": noise(2, 3, 4, 5, 5)}, "cost: expected odd search sizes"),
            ({"cost": noise(2, 3, 3, 5, 0)}, "cost: expected odd search sizes"),
        ],
    ),
    Operation(
        l2rfast.inverse_consistency,
        list(_noisy("forward backward", None, SHAPES, iterations=[2, 0])),
        list(_inverses(BIG)),
        [
            *_not_alike("forward", "backward", noise(2, 2, 5, 4)),
            *_not_integers(iterations=0),
            ({"forward": noise(2, 3, 5, 4)}, "forward: expected one channel per spatial axis"),
        ],
        ("forward", "backward"),
    ),
    Operation(
        l2rfast.local_ncc,
        list(_noisy("a b", 3, SHAPES, window=[9, 3], eps=[0.1])),
        list(_noisy("a b", 2, BIG, window=[9])),
        [
            *_not_alike("a", "b", noise(2, 3, 5, 4)),
            *_not_integers(window=1),
            *[({"eps": eps}, "eps: expected a positive number") for eps in (0.0, -0.1, math.nan)],
            ({"window": 4}, "window: expected an odd number"),
        ],
        ("a", "b"),
    ),
    Operation(
        l2rfast.warp_ssd,
        list(_warp_ssds(SHAPES)),
        list(_warp_ssds(BIG)),
        [
            *_not_tensors("fixed", "moving", "disp"),
            ({"disp": noise(2, 3, 5, 5)}, "disp: expected one channel per spatial axis"),
            ({"fixed": noise(2, 16, 5, 4)}, "fixed: expected the channels of moving and the spatial shape"),
            ({"moving": noise(1, 16, 5, 4)}, "moving, disp: expected shapes that fit"),
            ({"moving": noise(2, 16, 5, 4).float()}, "moving, disp: expected one dtype"),
            ({"moving": noise(2, 16, 5, 4).requires_grad_()}, "moving: no gradient to it is implemented"),
            ({"fixed": noise(2, 16, 5, 5).requires_grad_()}, "fixed: no gradient to it is implemented"),
        ],
        ("disp",),
    ),
]
