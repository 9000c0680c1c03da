"""Warping: forward, with gradients, along affine maps and grids, and integrating velocities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

import l2rfast

from .. import machine, peers
from ..harness import OURS, Case, Contestant, Tensors
from . import inputs
from .inputs import Size

CHANNELS = (1, 16)
STEPS = 7  # of integrating a velocity
GRADIENTS = {"image and field": (0, 1), "the field": (1,)}  # indices of (image, field)

PYTORCH = "F.grid_sample, grid prepared"
VOXELMORPH = "VoxelMorph's layer"
VOXELMORPH_COMPILED = f"{VOXELMORPH} under torch.compile"
MONAI = "MONAI Warp"
MONAI_COMPILED = f"{MONAI} under torch.compile"
CUPY = "CuPy map_coordinates, positions prepared"
INTERPOL = "torch-interpol grid_pull"
SCIPY = "SciPy map_coordinates, positions prepared"
PREPARED = "Each peer has what its interface lets it have prepared of the sampling grid."


def _as_it_is(gradient: Tensor) -> Tensor:
    return gradient


@dataclass(frozen=True)
class Sampler:
    """A way to warp an image: ``run(image, where)``, the field being in ``where`` as this way takes it.

    ``to_disp`` brings a gradient to ``where`` into the layout and units of the displacement.
    """

    run: Callable[[Tensor, Tensor], Tensor]
    where: Tensor
    to_disp: Callable[[Tensor], Tensor] = _as_it_is

    def canonical(self, result: Tensors) -> Tensors:
        """Of a result that ends with the gradient to ``where``."""
        return *result[:-1], self.to_disp(result[-1])


def _samplers(disp: Tensor, *names: str) -> dict[str, Sampler]:
    """Ours and the peers of these names.

    PyTorch is given its normalised grid and torch-interpol its positions in voxels; VoxelMorph and MONAI, which take
    displacements, keep the identity grid.
    """
    identity = peers.identity_grid(disp.shape[2:])
    monai = cache(peers.monai_warp)
    voxelmorph = partial(peers.voxelmorph_transform, identity=identity[0])
    compiled = cache(lambda: peers.compiled(voxelmorph)), cache(lambda: peers.compiled(monai()))
    make: dict[str, Callable[[], Sampler]] = {
        OURS: lambda: Sampler(l2rfast.warp, disp),
        PYTORCH: lambda: Sampler(
            peers.grid_sample, peers.sampling_grid(identity, disp).contiguous(), peers.grid_to_disp
        ),
        VOXELMORPH: lambda: Sampler(voxelmorph, disp),
        VOXELMORPH_COMPILED: lambda: Sampler(lambda image, disp: compiled[0]()(image, disp), disp),
        MONAI: lambda: Sampler(lambda image, disp: monai()(image, disp), disp),
        MONAI_COMPILED: lambda: Sampler(lambda image, disp: compiled[1]()(image, disp), disp),
        CUPY: lambda: Sampler(peers.cupy_map_coordinates, (identity + disp)[0]),
        INTERPOL: lambda: Sampler(
            peers.interpol_pull,
            (identity + disp).movedim(1, -1).contiguous(),
            lambda gradient: gradient.movedim(-1, 1),
        ),
    }
    return {name: make[name]() for name in (OURS, *names)}


def _name(what: str, channels: int) -> str:
    return f"{what}, {channels} channel{'s' if channels > 1 else ''}"


def _description(size: Size) -> str:
    return f"Trilinear, border repeated, float32 {inputs.text(size.dense)}, smooth field of 6 voxels."


def warp(size: Size, channels: int) -> Case:
    image, disp = inputs.image(size.dense, 1, channels), inputs.displacement(size.dense)
    floor = 3.5 if l2rfast.info().instruction_set == "avx2" else 2.5
    targets = {PYTORCH: 8.0} | ({VOXELMORPH: 14.0} if channels == 1 else {})
    names = [PYTORCH, VOXELMORPH, MONAI, INTERPOL]
    if channels == 1:
        names += [VOXELMORPH_COMPILED, MONAI_COMPILED, *([CUPY] if machine.on_a_gpu() else [])]
    return Case(
        _name("warp", channels),
        f"{_description(size)} {PREPARED}",
        inputs.nbytes(image, disp, image),
        {
            name: Contestant(partial(sampler.run, image, sampler.where), target=size.on_cpu(targets.get(name)))
            for name, sampler in _samplers(disp, *names).items()
        },
        inputs.exact(l2rfast.warp, image, disp),
        limits=inputs.limits(x_floor=size.on_cpu(floor) or size.on_gpu(1.5), x_memory=size.on_cpu(1.05)),
    )


def warp_gradient(size: Size, channels: int, to: str, targets: dict[str, float]) -> Case:
    """Beside the peers that ``targets`` names."""
    image, disp = inputs.image(size.dense, 1, channels), inputs.displacement(size.dense)
    weight = inputs.noise(size.dense, channels, 4, seed=3)
    gradients = partial(inputs.with_gradients, to=GRADIENTS[to])
    to_image = 0 in GRADIENTS[to]
    return Case(
        _name(f"warp, forward and backward to {to}", channels),
        f"{_description(size)} {PREPARED}",
        inputs.nbytes(image, disp, weight) + inputs.nbytes(image, *[image] * to_image, disp),
        {
            name: Contestant(
                partial(gradients, sampler.run, (image, sampler.where), weight=weight),
                sampler.canonical,
                size.on_cpu(targets.get(name)),
            )
            for name, sampler in _samplers(disp, *targets).items()
        },
        inputs.exact(
            lambda image, disp, weight: gradients(l2rfast.warp, (image, disp), weight=weight), image, disp, weight
        ),
        limits=inputs.limits(x_floor=size.on_gpu(3)),
    )


def integrate_velocity(size: Size) -> Case:
    velocity, weight = inputs.smooth_field(size.half), inputs.noise(size.half, 3, 4, seed=3)
    identity = peers.identity_grid(size.half)[0]

    def both(integrate: Callable[..., Tensor], velocity: Tensor, weight: Tensor, **options: bool) -> Tensors:
        return inputs.with_gradients(partial(integrate, steps=STEPS, **options), (velocity,), (0,), weight)

    return Case(
        "integrate velocity, forward and backward",
        f"{STEPS} steps, border repeated, float32 3 x {inputs.text(size.half)}, smooth velocity of 6 voxels. "
        "VoxelMorph's integrate_vec composes by its layer, given the border's mode, and keeps what every step needs, "
        "as l2rfast does with keep=True.",
        inputs.nbytes(velocity, weight, velocity, velocity),
        {
            OURS: Contestant(lambda: both(l2rfast.integrate_velocity, velocity, weight)),
            f"{OURS}, keep=True": Contestant(lambda: both(l2rfast.integrate_velocity, velocity, weight, keep=True)),
            "voxelmorph integrate_vec": Contestant(
                lambda: both(partial(peers.voxelmorph_integrate, identity=identity), velocity, weight),
                target=size.on_cpu(12),
            ),
        },
        inputs.exact(partial(both, l2rfast.integrate_velocity), velocity, weight),
        # Where a step samples within rounding of a voxel, rounding chooses on which side to take the derivative.
        tolerance=1e-4,
    )


def affine_warp(size: Size) -> Case:
    image = inputs.image(size.dense, seed=1)
    matrix = _rotation_and_scale(size.dense)
    normalised = peers.normalised_affine(matrix, size.dense)
    return Case(
        "affine warp",
        f"Trilinear, border repeated, float32 {inputs.text(size.dense)}, a rotation and scale about the centre. The "
        "matrix is normalised for PyTorch beforehand.",
        inputs.nbytes(image, matrix, image),
        {
            OURS: Contestant(lambda: l2rfast.affine_warp(image, matrix)),
            "F.affine_grid and F.grid_sample": Contestant(
                lambda: peers.affine_sample(image, normalised), target=size.on_cpu(10)
            ),
        },
        inputs.exact(l2rfast.affine_warp, image, matrix),
    )


def _rotation_and_scale(shape: inputs.Shape) -> Tensor:
    """(1, 3, 4): by 0.15, 0.1 and 0.2 radians about the axes and 10 %, the centre fixed."""
    angles = torch.zeros(3, 3, dtype=torch.float64)
    for (i, j), angle in {(1, 2): 0.15, (0, 2): 0.1, (0, 1): 0.2}.items():
        angles[i, j], angles[j, i] = angle, -angle
    linear = 1.1 * torch.linalg.matrix_exp(angles)
    centre = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    return torch.cat([linear, (centre - linear @ centre)[:, None]], 1)[None].float()


def grid_sample(size: Size) -> Case:
    image, disp = inputs.image(size.dense, seed=1), inputs.displacement(size.dense)
    grid = peers.sampling_grid(peers.identity_grid(size.dense), disp).contiguous()

    def ours(image: Tensor, grid: Tensor) -> Tensor:
        return l2rfast.grid_sample(image, grid, padding_mode="border", align_corners=True)

    return Case(
        "grid_sample",
        f"{_description(size)} Both are given the same normalised grid.",
        inputs.nbytes(image, grid, image),
        {
            OURS: Contestant(lambda: ours(image, grid)),
            "F.grid_sample": Contestant(lambda: peers.grid_sample(image, grid)),
        },
        inputs.exact(ours, image, grid),
    )


def warp_many(size: Size) -> Case:
    image, disp = inputs.image(size.dense, seed=1), inputs.displacement(size.dense)
    labels = (4 * inputs.noise(size.dense, 1, 8, seed=5)).round().to(torch.int16)
    their_labels = labels.float()
    grid = peers.sampling_grid(peers.identity_grid(size.dense), disp).contiguous()

    def ours(*tensors: Tensor) -> Tensors:
        *images, disp = tensors
        return l2rfast.warp_many(images, disp, modes=("linear", "nearest"))

    return Case(
        "warp many, an image and its labels",
        f"{_description(size)} The labels are int16, nearest; PyTorch, which samples no integers, is given them as "
        "float32.",
        inputs.nbytes(image, labels, disp, image, labels),
        {
            OURS: Contestant(lambda: ours(image, labels, disp)),
            "F.grid_sample twice, grid prepared": Contestant(
                lambda: (peers.grid_sample(image, grid), peers.grid_sample(their_labels, grid, "nearest"))
            ),
        },
        inputs.exact(ours, image, labels, disp),
    )


def vote(size: Size, dtype: torch.dtype) -> Case:
    image, disp = inputs.image(size.dense, seed=1), inputs.displacement(size.dense)
    labels = (4 * inputs.noise(size.dense, 1, 8, seed=5)).round().to(dtype)
    classes = torch.arange(int(labels.min()), int(labels.max()) + 1, dtype=dtype)

    def ours(labels: Tensor, disp: Tensor) -> Tensor:
        return l2rfast.warp(labels, disp, mode="vote")

    def one_hot() -> Tensor:
        channels = (labels == classes.view(1, -1, 1, 1, 1)).float()
        return classes[l2rfast.warp(channels, disp).argmax(1, keepdim=True)]

    def linear_and_nearest(image: Tensor, labels: Tensor, disp: Tensor) -> Tensors:
        return l2rfast.warp(image, disp), l2rfast.warp(labels, disp, mode="nearest")

    name = str(dtype).removeprefix("torch.")
    return Case(
        f"warp of labels by votes, {name}",
        f"{len(classes)} labels of {name} in regions of some 8 voxels, {inputs.text(size.dense)}, smooth field of 6 "
        "voxels. Beside the linear warp of a channel for each label and its argmax, and what linear and nearest warps "
        "of an image and its labels take together.",
        inputs.nbytes(labels, disp, labels),
        {
            OURS: Contestant(lambda: ours(labels, disp)),
            "l2rfast, a channel for each label": Contestant(one_hot),
            "l2rfast, linear and nearest": Contestant(
                lambda: linear_and_nearest(image, labels, disp),
                reference=inputs.exact(linear_and_nearest, image, labels, disp),
            ),
        },
        inputs.exact(ours, labels, disp),
        tolerance=1e-2,  # where votes are even within rounding, rounding decides
    )


def warp_cubic(size: Size) -> Case:
    """Mirrored outside, as SciPy is everywhere then."""
    image, disp = inputs.image(size.dense, seed=1), inputs.displacement(size.dense)
    run = partial(l2rfast.warp, mode="cubic", padding="reflection")
    positions = (peers.identity_grid(size.dense) + disp)[0]
    scipy = Contestant(lambda: peers.scipy_map_coordinates(image, positions), target=size.on_cpu(8))
    return Case(
        "warp, cubic",
        f"Cubic B-spline through the image, prefilter included, mirrored outside, float32 {inputs.text(size.dense)}, "
        "smooth field of 6 voxels. SciPy has one thread.",
        inputs.nbytes(image, image, image, disp, image),
        {OURS: Contestant(lambda: run(image, disp)), **({} if machine.on_a_gpu() else {SCIPY: scipy})},
        inputs.exact(run, image, disp),
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "warp": [partial(warp, channels=channels) for channels in CHANNELS],
    "warp-cubic": [warp_cubic],
    "warp-gradient": [
        partial(warp_gradient, channels=channels, to="image and field", targets={PYTORCH: 8, MONAI: 12, INTERPOL: 20})
        for channels in CHANNELS
    ],
    "warp-field-gradient": [
        partial(warp_gradient, channels=channels, to="the field", targets={PYTORCH: 10}) for channels in CHANNELS
    ],
    "integrate-velocity": [integrate_velocity],
    "affine-warp": [affine_warp],
    "grid-sample": [grid_sample],
    "warp-many": [warp_many],
    "vote": [partial(vote, dtype=dtype) for dtype in (torch.int16, torch.int64)],
}
