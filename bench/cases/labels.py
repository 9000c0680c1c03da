"""label-reg: losses of labels, energies of fields, and a step of training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from torch import Tensor

import l2rfast
from l2rfast.label_losses import SIGMAS
from l2rfast.losses import bending_energy, diffusion_energy, multiscale_dice

from .. import peers, plain
from ..harness import OURS, Case, Contestant, Tensors
from . import inputs
from .inputs import Size

LAYERS = f"{OURS}, the layers alone"
PLAIN = "PyTorch"
BATCH = 4  # published

Energy = Callable[[Tensor], Tensor]


def energy(size: Size, name: str, ours: Energy, theirs: Energy, peer: str = PLAIN) -> Case:
    disp = inputs.displacement(size.dense)

    def gradients(run: Callable[[Tensor], Tensor], disp: Tensor) -> Tensors:
        return inputs.with_gradients(run, (disp,), (0,))

    return Case(
        f"{name} of a field, and its gradient",
        f"Forward and backward, float32 (1, 3, {inputs.text(size.dense)}).",
        inputs.nbytes(disp, disp),
        {OURS: Contestant(lambda: gradients(ours, disp)), peer: Contestant(lambda: gradients(theirs, disp))},
        inputs.exact(partial(gradients, ours), disp),
    )


def label(shape: tuple[int, int, int], seed: int) -> Tensor:
    """(1, 1, *shape), from 0 to 1: what is above the mean of smooth noise."""
    return (inputs.image(shape, seed) - inputs.image(shape, seed).mean()).mul(8).sigmoid()


def overlap(size: Size) -> Case:
    a, b = (label(size.dense, seed) for seed in (1, 3))

    def gradients(run: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensors:
        return inputs.with_gradients(run, (a, b), (1,))

    return Case(
        "Dice loss of labels at five scales, and its gradient to one",
        f"Gaussians of up to {max(SIGMAS):g} voxels, float32 {inputs.text(size.dense)}.",
        inputs.nbytes(a, b, b),
        {
            OURS: Contestant(lambda: gradients(multiscale_dice, a, b)),
            f"{PLAIN}, convolutions along the axes": Contestant(
                lambda: gradients(partial(plain.multiscale_dice, sigmas=SIGMAS), a, b)
            ),
        },
        inputs.exact(partial(gradients, multiscale_dice), a, b),
    )


def step(size: Size) -> Case:
    # Here, as they bring packages that a machine for the layers alone may lack.
    from l2rfast.methods.weakly_supervised import nets

    torch.manual_seed(0)
    # The tutorial's: ultrasound of 41 x 59 x 44 voxels, MR of 60 x 64 x 64.
    to, of = ((44, 59, 41), (64, 64, 60)) if size.full else ((20, 24, 18), (24, 24, 22))
    network = nets.LocalNet(nets.Plan(norm="batch-as-published") if size.full else nets.Plan(width=4))
    for out in network.out.values():
        # A field that is of some voxels, and never on one, where the derivative jumps.
        torch.nn.init.normal_(out.weight, std=0.01)
        torch.nn.init.constant_(out.bias, 0.07)
    many = [[inputs.image(shape, seed + i) for i in range(BATCH)] for shape, seed in ((to, 1), (of, 11))]
    fixed, moving = (torch.cat(images) for images in many)
    truth, moved = (torch.cat([label(shape, 21 + i) for i in range(BATCH)]) for shape in (to, of))
    with torch.no_grad():
        found = network(moving, fixed)
        parts = [torch.zeros(BATCH, 3, *(-(-s // 2**level) for s in to)) for level in network.plan.out_levels]
        parts[0] += found

    def ours(field: Tensor) -> Tensor:
        return multiscale_dice(truth, l2rfast.warp(moved, field, padding="zeros")) + 0.5 * bending_energy(field)

    def theirs(field: Tensor) -> Tensor:
        grid = peers.sampling_grid(identity, field, of)
        warped = peers.grid_sample(moved, grid, padding="zeros")
        return plain.multiscale_dice(truth, warped, SIGMAS) + 0.5 * plain.bending(field)

    identity = peers.identity_grid(to)

    def whole(loss: Callable[[Tensor], Tensor]) -> Tensors:
        network.zero_grad()
        field = network(moving, fixed)
        field.retain_grad()
        value = loss(field)
        torch.autograd.backward(value)
        assert field.grad is not None
        return value.detach(), field.grad

    def alone(loss: Callable[[Tensor], Tensor]) -> Tensors:
        """What is not a convolution: images and fields resized, then the loss."""
        nets.resized(moving, to)
        leaves = [part.clone().requires_grad_() for part in parts]
        field = torch.stack([nets.resized(leaf, to) for leaf in leaves]).sum(0)
        field.retain_grad()
        value = loss(field)
        torch.autograd.backward(value)
        assert field.grad is not None
        return value.detach(), field.grad

    def of_pytorch(run: Callable[[Callable[[Tensor], Tensor]], Tensors]) -> Tensors:
        with mock.patch.object(nets, "resized", plain.resized):
            return run(theirs)

    def reference() -> Tensors:
        exact = found.double().requires_grad_()
        with l2rfast.backend("reference"):
            warped = l2rfast.warp(moved.double(), exact, padding="zeros")
            value = multiscale_dice(truth.double(), warped) + 0.5 * bending_energy(exact)
        torch.autograd.backward(value)
        assert exact.grad is not None
        return value.detach(), exact.grad

    parameters = list(network.parameters())
    return Case(
        "label-reg, a step of training",
        f"{BATCH} pairs: LocalNet forward, the moving label warped, Dice at five scales and bending energy, all "
        f"backward; float32, fixed {inputs.text(to)}, moving {inputs.text(of)}. Compared are the loss and its gradient "
        "to the field. The layers are all but what lies between the first convolution and the five fields.",
        inputs.nbytes(fixed, moving, *parameters, *parameters),
        {
            OURS: Contestant(lambda: whole(ours)),
            LAYERS: Contestant(lambda: alone(ours)),
            f"{PLAIN}'s layers": Contestant(lambda: of_pytorch(whole)),
            f"{PLAIN}'s layers, alone": Contestant(lambda: of_pytorch(alone)),
        },
        reference,
        # Rounding puts some positions on the other side of a voxel, where the derivative jumps.
        tolerance=5e-3,
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "energies": [
        partial(energy, name="bending energy", ours=bending_energy, theirs=plain.bending),
        partial(
            energy,
            name="bending energy, compact",
            ours=partial(bending_energy, stencil="compact"),
            theirs=peers.monai_bending,
            peer="MONAI's loss",
        ),
        partial(energy, name="diffusion energy", ours=diffusion_energy, theirs=plain.diffusion),
    ],
    "label-losses": [overlap],
    "label-reg-step": [step],
}
