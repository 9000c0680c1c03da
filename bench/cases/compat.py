"""Other libraries' layers, by themselves and on ours: what `l2rfast.compat` exports is what a patch puts in place.

Compared are our result with the library's own in float32, and the library's with its own in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import l2rfast

from .. import peers
from ..harness import OURS, Case, Contestant, Tensors
from . import inputs
from .inputs import Size

TOLERANCE = 2e-2  # sums of squares that cancel, of float32, are the libraries'
Call = Callable[..., Tensor]


def replaced(name: str, ours: Call, theirs: Call, *arguments: Tensor, to: Sequence[int], exact: Call | None) -> Case:
    """A call, and its gradients to some arguments.

    Args:
        name: of the library, and what is called.
        ours, theirs: of the arguments.
        to: the arguments to which there are gradients.
        exact: theirs, for float64; None where the library has only float32.
    """
    with torch.no_grad():
        value = theirs(*arguments)
    drawn = torch.Generator().manual_seed(5)
    weight = torch.randn(value.shape, generator=drawn) if value.numel() > 1 else torch.ones_like(value)

    def run(call: Call) -> Callable[[], Tensors]:
        if not to:
            return lambda: (call(*arguments),)
        return lambda: inputs.with_gradients(call, arguments, to, weight)

    def reference() -> Tensors:
        if exact is None:
            return run(theirs)()
        doubled = tuple(one.double() for one in arguments)
        return inputs.with_gradients(exact, doubled, to, weight.double()) if to else (exact(*doubled),)

    shapes = ", ".join(inputs.text(tuple(one.shape)) for one in arguments)
    return Case(
        name,
        f"{'Forward and backward' if to else 'Forward'}, float32 {shapes}. The error of ours is its difference to the "
        f"library's float32, that of the library {'not known' if exact is None else 'the difference to its float64'}.",
        inputs.nbytes(value, *arguments, *(arguments[i] for i in to)),
        {OURS: Contestant(run(ours), reference=run(theirs)), "the library": Contestant(run(theirs))},
        reference,
        tolerance=TOLERANCE,
    )


def quiet(make: Callable[[], Any]) -> Any:
    """What it makes, without what the library says meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def torch_grid_sample(size: Size) -> Case:
    from l2rfast.compat import torch as compat

    image, disp = inputs.image(size.dense, 1), inputs.displacement(size.dense)
    grid = peers.sampling_grid(peers.identity_grid(size.dense), disp)

    def call(sample: Call) -> Call:
        return lambda image, grid: sample(image, grid, align_corners=True)

    theirs = call(F.grid_sample)
    return replaced("torch, F.grid_sample", call(compat.grid_sample), theirs, image, grid, to=(0, 1), exact=theirs)


def torch_affine(size: Size) -> Case:
    from l2rfast.compat import torch as compat

    image = inputs.image(size.dense, 1)
    theta = torch.eye(3, 4)[None] + torch.tensor([0.0317, -0.0523, 0.0791, 0.0413])

    def call(make: Call, sample: Call) -> Call:
        return lambda image, theta: sample(
            image, make(theta, list(image.shape), align_corners=False), align_corners=False
        )

    theirs = call(F.affine_grid, F.grid_sample)
    ours = call(compat.affine_grid, compat.grid_sample)
    return replaced("torch, F.affine_grid and F.grid_sample", ours, theirs, image, theta, to=(1,), exact=theirs)


def voxelmorph_transform(size: Size) -> Case:
    from voxelmorph.nn.modules import SpatialTransformer

    from l2rfast.compat.voxelmorph import modules

    image, disp = inputs.image(size.dense, 1), inputs.displacement(size.dense)
    return replaced(
        "voxelmorph, SpatialTransformer", modules.SpatialTransformer(), SpatialTransformer(), image, disp,
        to=(0, 1), exact=SpatialTransformer(),
    )  # fmt: skip


def voxelmorph_integrate(size: Size) -> Case:
    from voxelmorph.nn.modules import IntegrateVelocityField

    from l2rfast.compat.voxelmorph import modules

    velocity = inputs.displacement(size.half)
    ours, *theirs = (layer(steps=7) for layer in (modules.IntegrateVelocityField, *2 * [IntegrateVelocityField]))
    return replaced("voxelmorph, IntegrateVelocityField", ours, theirs[0], velocity, to=(0,), exact=theirs[1])


def voxelmorph_compose(size: Size) -> Case:
    from voxelmorph.nn.functional import compose

    from l2rfast.compat.voxelmorph import functional as compat

    outer, inner = inputs.displacement(size.dense), 0.5 * inputs.displacement(size.dense)

    def call(compose: Callable[[list[Tensor]], Tensor]) -> Call:
        return lambda outer, inner: compose([outer, inner])

    return replaced(
        "voxelmorph, compose", call(compat.compose), call(compose), outer, inner, to=(0, 1), exact=call(compose)
    )


def neurite_ncc(size: Size) -> Case:
    from neurite.nn.functional import ncc

    from l2rfast.compat import neurite as compat

    a, b = inputs.image(size.dense, 1), inputs.image(size.dense, 3)
    return replaced("neurite, ncc", compat.ncc, ncc, a, b, to=(0, 1), exact=ncc)


def monai_warp(size: Size) -> Case:
    import monai.networks.blocks as blocks

    from l2rfast.compat import monai as compat

    image, disp = inputs.image(size.dense, 1), inputs.displacement(size.dense)
    ours, theirs = quiet(compat.Warp), quiet(blocks.Warp)
    return replaced("monai, Warp", ours, theirs, image, disp, to=(0, 1), exact=quiet(blocks.Warp))


def monai_integrate(size: Size) -> Case:
    import monai.networks.blocks as blocks

    from l2rfast.compat import monai as compat

    velocity = inputs.displacement(size.half)
    ours, theirs = quiet(compat.DVF2DDF), quiet(blocks.DVF2DDF)
    return replaced("monai, DVF2DDF", ours, theirs, velocity, to=(0,), exact=quiet(blocks.DVF2DDF))


def monai_local_ncc(size: Size) -> Case:
    from monai.losses import LocalNormalizedCrossCorrelationLoss as Loss

    from l2rfast.compat import monai as compat

    a, b = inputs.image(size.dense, 1), inputs.image(size.dense, 3)
    ours, theirs, exact = (
        compat.LocalNormalizedCrossCorrelationLoss(kernel_size=9),
        Loss(kernel_size=9),
        Loss(kernel_size=9),
    )
    name = "monai, LocalNormalizedCrossCorrelationLoss"
    return replaced(name, ours, theirs, a, b, to=(0, 1), exact=exact.double())


def monai_of_field(name: str, size: Size) -> Case:
    import monai.losses

    from l2rfast.compat import monai as compat

    disp = inputs.displacement(size.dense)
    ours, theirs = getattr(compat, name)(), getattr(monai.losses, name)()
    return replaced(f"monai, {name}", ours, theirs, disp, to=(0,), exact=theirs)


def monai_mutual_information(kernel: str, size: Size) -> Case:
    from monai.losses import GlobalMutualInformationLoss as Loss

    from l2rfast.compat import monai as compat

    # MONAI keeps all weights of all voxels, ten times: the whole images would take more than there is.
    a, b = (inputs.image(size.half, seed).sub(0.5).div(3) for seed in (1, 3))
    ours, theirs = compat.GlobalMutualInformationLoss(kernel), Loss(kernel)
    # Of its cubic splines it has float32 only.
    exact = Loss(kernel).double() if kernel == "gaussian" else None
    return replaced(f"monai, GlobalMutualInformationLoss, {kernel}", ours, theirs, a, b, to=(0,), exact=exact)


def fireants_local_ncc(size: Size) -> Case:
    from fireants.losses.cc import LocalNormalizedCrossCorrelationLoss as Loss

    from l2rfast.compat import fireants as compat

    a, b = inputs.image(size.dense, 1), inputs.image(size.dense, 3)
    ours = compat.LocalNormalizedCrossCorrelationLoss(kernel_size=9)
    name = "fireants, LocalNormalizedCrossCorrelationLoss"
    return replaced(name, ours, Loss(kernel_size=9), a, b, to=(0, 1), exact=None)


def fireants_sampler(size: Size) -> Case:
    from fireants.interpolator.grid_sample import torch_grid_sampler_3d

    from l2rfast.compat import fireants as compat

    image, disp = inputs.image(size.dense, 1), inputs.displacement(size.dense)
    moved = disp.movedim(1, -1) / 80

    def call(sampler: Call) -> Call:
        return lambda image, grid: sampler(image, grid=grid)

    return replaced(
        "fireants, grid sampler", call(compat.torch_grid_sampler_3d), call(torch_grid_sampler_3d), image, moved,
        to=(0, 1), exact=call(torch_grid_sampler_3d),
    )  # fmt: skip


def fireants_composer(size: Size) -> Case:
    from fireants.interpolator.grid_sample import torch_warp_composer_3d

    from l2rfast.compat import fireants as compat

    fields = [inputs.displacement(size.dense).movedim(1, -1) / by for by in (80, 160)]

    def call(composer: Call) -> Call:
        return lambda outer, inner: composer(outer, v=inner)

    return replaced(
        "fireants, warp composer", call(compat.torch_warp_composer_3d), call(torch_warp_composer_3d), *fields,
        to=(), exact=call(torch_warp_composer_3d),
    )  # fmt: skip


def convexadam(name: str, size: Size) -> Case:
    """Its steps, each with what the one before gives it; at the size that its defaults make of brains."""
    from convexAdam import convex_adam_utils as steps

    from l2rfast.compat import convexadam as compat

    spacing, radius, shape = 6, 4, size.dense
    images = [inputs.image(shape, seed) for seed in (1, 3)]
    pooled = [F.avg_pool3d(steps.MINDSSC(image, 1, 2, device="cpu"), spacing) for image in images]
    cost, least = steps.correlate(*pooled, radius, spacing, shape)
    mesh = peers.search_mesh(radius)
    fields = [inputs.noise(cost.shape[1:], 3, 4, seed) / 20 for seed in (1, 2)]

    def call(of: Any) -> Call:
        calls: dict[str, Call] = {
            "MINDSSC": lambda image: of.MINDSSC(image, 1, 2, device="cpu"),
            "correlate": lambda fixed, moving: of.correlate(fixed, moving, radius, spacing, shape)[0],
            "coupled_convex": lambda cost: of.coupled_convex(cost, least, mesh, spacing, shape),
            "inverse_consistency": lambda one, two: quiet(lambda: of.inverse_consistency(one, two, iter=15)[0]),
        }
        return calls[name]

    of = {"MINDSSC": images[:1], "correlate": pooled, "coupled_convex": [cost], "inverse_consistency": fields}
    return replaced(f"convexadam, {name}", call(compat), call(steps), *of[name], to=(), exact=None)


def step(name: str, libraries: Sequence[str], run: Callable[[], Tensors], of: Sequence[Tensor]) -> Case:
    """A step of a training script, as it is and after the one line."""

    def patched() -> Tensors:
        with l2rfast.patch(*libraries):
            return run()

    line = f"l2rfast.patch({', '.join(map(repr, libraries))})"
    return Case(
        name,
        f"Network, warp, losses, backward, Adam; float32 {inputs.text(tuple(of[0].shape[2:]))}. Ours is the same after "
        f"`{line}`, which is timed as well; compared are the losses and the gradients to the displacements.",
        inputs.nbytes(*of),
        {OURS: Contestant(patched), "the script as it is": Contestant(run)},
        run,
        tolerance=TOLERANCE,
    )


def monai_step(size: Size) -> Case:
    import monai.losses
    import monai.networks.blocks
    import monai.networks.nets

    d, h, w = (max(16, side // 16 * 16) for side in size.dense)
    fixed, moving = (inputs.image((d, h, w), seed) for seed in (1, 3))
    torch.manual_seed(0)
    network = monai.networks.nets.UNet(3, 2, 3, channels=(16, 32, 32, 32), strides=(2, 2, 2))
    similarity = monai.losses.LocalNormalizedCrossCorrelationLoss(kernel_size=9)
    smoothness, warp = monai.losses.BendingEnergyLoss(), quiet(monai.networks.blocks.Warp)
    optimizer = torch.optim.Adam(network.parameters(), 0)  # so that every step is the first

    def run() -> Tensors:
        disp = network(torch.cat([moving, fixed], 1))
        disp.retain_grad()
        loss = similarity(warp(moving, disp), fixed) + smoothness(disp)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach(), disp.grad

    return step("MONAI, a step of a training script", ["monai"], run, (fixed, moving))


def voxelmorph_step(size: Size) -> Case:
    import neurite.nn.functional
    import voxelmorph

    d, h, w = (max(32, side // 32 * 32) for side in size.half)
    fixed, moving = (inputs.image((d, h, w), seed) for seed in (1, 3))
    torch.manual_seed(0)
    network = voxelmorph.nn.models.VxmPairwise(
        ndim=3, source_channels=1, target_channels=1, nb_features=[16, 32, 32, 32], integration_steps=7
    )
    weight, bias = network.flow_layer.parameters()
    # A field that is of some voxels, and never on one, where the derivative jumps.
    torch.nn.init.normal_(weight, std=0.01)
    torch.nn.init.constant_(bias, 0.3)
    optimizer = torch.optim.Adam(network.parameters(), 0)

    def run() -> Tensors:
        disp, warped = network(moving, fixed, return_warped_source=True)
        disp.retain_grad()
        smoothness = sum(disp.diff(dim=axis).square().mean() for axis in (2, 3, 4))
        loss = -neurite.nn.functional.ncc(warped, fixed)[0, 0] + smoothness
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach(), disp.grad

    return step("VoxelMorph 0.3, a step of a training script", ["voxelmorph", "neurite"], run, (fixed, moving))


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "compat": [
        *(torch_grid_sample, torch_affine),
        *(voxelmorph_transform, voxelmorph_integrate, voxelmorph_compose, neurite_ncc),
        *(monai_warp, monai_integrate, monai_local_ncc),
        *(partial(monai_of_field, name) for name in ("DiffusionLoss", "BendingEnergyLoss")),
        *(partial(monai_mutual_information, kernel) for kernel in ("gaussian", "b-spline")),
        *(fireants_local_ncc, fireants_sampler, fireants_composer),
        *(partial(convexadam, name) for name in ("MINDSSC", "correlate", "coupled_convex", "inverse_consistency")),
    ],
    "compat-scripts": [monai_step, voxelmorph_step],
}
