"""A step of training: how much of it is ours to make fast, and what the whole takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

import l2rfast
from l2rfast.losses import diffusion_energy

from .. import peers, plain
from ..harness import OURS, Case, Contestant, Limit, Tensors
from . import inputs
from .inputs import Size

Field = Callable[[], Tensor]
Loss = Callable[[Tensor], Tensor]

LAYERS = f"{OURS}, the layers alone"
THEIRS = "voxelmorph's warp, neurite's NCC"


def voxelmorph_step(size: Size) -> Case:
    # Here, as they bring packages that a machine for the layers alone may lack.
    from l2rfast.methods.unsupervised import VoxelMorph

    torch.manual_seed(0)
    network = VoxelMorph()
    # A field that is of some voxels, and never on one, where the derivative jumps.
    torch.nn.init.normal_(network.field.weight, std=0.01)
    torch.nn.init.constant_(network.field.bias, 0.3)
    multiple = network.architecture.multiple
    d, h, w = (-(-s // multiple) * multiple for s in size.dense)
    fixed, moving = (inputs.image((d, h, w), seed) for seed in (1, 3))
    identity = peers.identity_grid((d, h, w))[0]
    with torch.no_grad():
        found = network(moving, fixed).displacement

    def ours(field: Tensor) -> Tensor:
        return l2rfast.warp_local_ncc(fixed, moving, field)[0].mean() + diffusion_energy(field)

    @cache
    def ncc() -> Callable[[Tensor, Tensor], Tensor]:
        return peers.neurite_local_ncc()

    def theirs(field: Tensor) -> Tensor:
        warped = peers.voxelmorph_transform(moving, field, identity)
        return plain.diffusion(field) - ncc()(fixed, warped)

    def step(field: Field, loss: Loss) -> Callable[[], Tensors]:
        def run() -> Tensors:
            network.zero_grad()
            made = field()
            made.retain_grad()
            value = loss(made)
            torch.autograd.backward(value)
            assert made.grad is not None
            return value.detach(), made.grad

        return run

    def reference() -> Tensors:
        exact = found.double().requires_grad_()
        images = fixed.double(), moving.double()
        value = l2rfast.warp_local_ncc(*images, exact)[0].mean() + diffusion_energy(exact)
        torch.autograd.backward(value)
        assert exact.grad is not None
        return value.detach(), exact.grad

    whole: dict[str, Field] = {
        OURS: lambda: network(moving, fixed).displacement,
        "plain": lambda: plain.field(network, moving, fixed),
        "alone": lambda: found.clone().requires_grad_(),
    }
    parameters = list(network.parameters())
    return Case(
        "VoxelMorph, a step of training",
        f"The network forward, local NCC of window 9 and diffusion, all backward; float32 {inputs.text((d, h, w))}. "
        "Compared are the loss and its gradient to the field. 'Plain' stores what it upsamples.",
        inputs.nbytes(fixed, moving, *parameters, *parameters),
        {
            OURS: Contestant(step(whole[OURS], ours)),
            LAYERS: Contestant(step(whole["alone"], ours)),
            f"the same network, {THEIRS}": Contestant(step(whole[OURS], theirs)),
            f"{THEIRS}, alone": Contestant(step(whole["alone"], theirs)),
            f"plain VoxelMorph, {THEIRS}": Contestant(step(whole["plain"], theirs)),
        },
        reference,
        # Rounding puts some positions on the other side of a voxel, where the derivative jumps.
        tolerance=5e-3,
        limits=(Limit(f"share of {LAYERS}", 0.05),) if size.full else (),
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {"voxelmorph-step": [voxelmorph_step]}
