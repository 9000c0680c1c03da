"""Losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import l2rfast
from l2rfast.losses import TINY

from .. import machine, peers
from ..harness import OURS, Case, Contestant, Tensors
from . import inputs
from .inputs import Size

Loss = Callable[[Tensor, Tensor], Tensor]

MONAI = "MONAI's loss"
FIREANTS = "FireANTs' loss"
NEURITE = "neurite's NCC"
FUSED = "fused-lncc's loss"
SEPARABLE = "PyTorch, separable convolutions"
COMPILED = "the same under torch.compile"
TARGETS = {MONAI: 60, FIREANTS: 45, SEPARABLE: 20, COMPILED: 8}


def _images(size: Size) -> tuple[Tensor, Tensor]:
    a = inputs.image(size.dense, seed=1)
    return a, 0.7 * a + 0.3 * inputs.image(size.dense, seed=3)


def _offset(size: Size) -> tuple[Tensor, Tensor]:
    """The same, 10,000 standard deviations from zero."""
    a, b = _images(size)
    return a + 1e4 * a.std(), b + 1e4 * b.std()


def _peers() -> dict[str, tuple[Callable[[], Loss], dict[str, Any]]]:
    """What makes each, and the options with which ours is minus the same, or the same."""
    return {
        MONAI: (peers.monai_local_ncc, {"semantics": "monai"}),
        FIREANTS: (peers.fireants_local_ncc, {"semantics": "fireants", "smooth_nr": 1e-5}),
        NEURITE: (peers.neurite_local_ncc, {}),
        SEPARABLE: (lambda: peers.separable_local_ncc, {}),
        COMPILED: (lambda: peers.compiled(peers.separable_local_ncc), {}),
    }


def local_ncc(
    size: Size,
    to: Sequence[int],
    what: str,
    targets: dict[str, float],
    images: Callable[[Size], tuple[Tensor, Tensor]] = _images,
    tolerance: float = 1e-5,
) -> Case:
    a, b = images(size)

    def ours(a: Tensor, b: Tensor, **options: Any) -> Tensors:
        return inputs.with_gradients(partial(l2rfast.local_ncc, **options), (a, b), to)

    def peer(name: str) -> Contestant:
        make, options = _peers()[name]
        loss = cache(make)
        sign = -1 if "loss" in name else 1
        return Contestant(
            lambda: inputs.with_gradients(loss(), (a, b), to),
            canonical=lambda result: tuple(sign * x for x in result),
            target=size.on_cpu(targets.get(name)),
            reference=inputs.exact(partial(ours, **options), a, b),
        )

    return Case(
        f"local NCC, {what}",
        f"Window 9, float32 {inputs.text(size.dense)}. Every peer is checked in its own semantics.",
        inputs.nbytes(a, b, *(a for _ in to)),
        {OURS: Contestant(lambda: ours(a, b)), **{name: peer(name) for name in _peers()}},
        inputs.exact(ours, a, b),
        tolerance,
        # In memory: three volumes beside the two that are asked for.
        inputs.limits(x_floor=size.on_cpu(6), x_memory=size.on_cpu(2.5)) if targets else (),
    )


def local_ncc_of_many(size: Size, to: Sequence[int], what: str) -> Case:
    """Of a batch with many channels; beside fused-lncc, in whose semantics all are checked."""
    items, channels, shape = size.many
    if not machine.on_a_gpu():  # where MONAI takes more than the memory
        shape = shape[0] // 2, shape[1] // 2, shape[2] // 2
    a, b = (inputs.image(shape, seed, items * channels).unflatten(1, (items, channels))[0] for seed in (1, 3))
    b = 0.7 * a + 0.3 * b

    def ours(a: Tensor, b: Tensor) -> Tensors:
        return inputs.with_gradients(partial(l2rfast.local_ncc, window=7, semantics="monai"), (a, b), to)

    def peer(make: Callable[[], Loss], one: float, target: float | None = None) -> Contestant:
        """Of a loss that is ``one`` minus the local NCC."""
        loss = cache(make)
        return Contestant(
            lambda: inputs.with_gradients(loss(), (a, b), to),
            canonical=lambda result: (one - result[0], *(-x for x in result[1:])),
            target=size.on_gpu(target),
        )

    return Case(
        f"local NCC of {items} items of {channels} channels, {what}",
        f"Window 7, float32 {inputs.text(shape)}, as MONAI defines it.",
        inputs.nbytes(a, b, *(a for _ in to)),
        {
            OURS: Contestant(lambda: ours(a, b)),
            **({FUSED: peer(lambda: peers.fused_local_ncc(7), 1, 2)} if to == (0,) else {}),
            MONAI: peer(lambda: peers.monai_local_ncc(7), 0),
        },
        inputs.exact(ours, a, b),
        limits=inputs.limits(**{f"x memory of {FUSED}": size.on_gpu(1)}) if to == (0,) else (),
    )


def local_ncc_windows(size: Size) -> Case:
    a, b = _images(size)

    def ours(a: Tensor, b: Tensor, window: int) -> Tensors:
        return inputs.with_gradients(partial(l2rfast.local_ncc, window=window), (a, b), to=(0, 1))

    def contestant(window: int, target: float | None = None) -> Contestant:
        run = partial(ours, window=window)
        return Contestant(lambda: run(a, b), target=target, reference=inputs.exact(run, a, b))

    return Case(
        "local NCC, windows of 21 and of 5",
        f"Forward and backward to both images, float32 {inputs.text(size.dense)}. The first line is window 21.",
        inputs.nbytes(a, b, a, b),
        {OURS: contestant(21), f"{OURS}, window 5": contestant(5, size.on_cpu(1 / 1.25))},
        inputs.exact(partial(ours, window=21), a, b),
    )


def warp_local_ncc(size: Size) -> Case:
    fixed, moving = _images(size)
    disp = inputs.displacement(size.dense)

    def ours(fixed: Tensor, moving: Tensor, disp: Tensor) -> Tensors:
        loss, gradient = l2rfast.warp_local_ncc(fixed, moving, disp)
        return loss[0], gradient

    def separate(fixed: Tensor, moving: Tensor, disp: Tensor) -> Tensors:
        def loss(disp: Tensor) -> Tensor:
            return -l2rfast.local_ncc(fixed, l2rfast.warp(moving, disp))

        return inputs.with_gradients(loss, (disp,), (0,))

    def pytorch() -> Tensors:
        leaf = disp.detach().requires_grad_()
        grid = peers.sampling_grid(identity, leaf)
        value = -peers.separable_local_ncc(fixed, peers.grid_sample(moving, grid))
        return value.detach(), *torch.autograd.grad(value, leaf)

    identity = peers.identity_grid(size.dense)
    return Case(
        "local NCC of a warped image, and its gradient to the field",
        f"Window 9, trilinear, border repeated, float32 {inputs.text(size.dense)}, smooth field of 6 voxels.",
        inputs.nbytes(fixed, moving, disp, disp),
        {
            OURS: Contestant(lambda: ours(fixed, moving, disp)),
            f"{OURS}, warp and local_ncc": Contestant(lambda: separate(fixed, moving, disp)),
            "F.grid_sample and separable convolutions": Contestant(pytorch),
        },
        inputs.exact(ours, fixed, moving, disp),
    )


BINS = 23  # MONAI's


def mutual_information(size: Size) -> Case:
    # From 0.01 to 0.99: at 0 and 1 MONAI's gradient, through torch.clip, depends on the version of PyTorch.
    a, b = (0.01 + 0.98 * (image - image.min()) / (image.max() - image.min()) for image in _images(size))

    def ours(a: Tensor, b: Tensor) -> Tensors:
        run = partial(l2rfast.losses.mutual_information, bins=BINS, window="gaussian")
        return inputs.with_gradients(run, (a, b), (0,))

    loss = cache(partial(peers.monai_mutual_information, BINS, TINY))
    theirs = Contestant(
        lambda: inputs.with_gradients(loss(), (a, b), (0,)), canonical=lambda result: tuple(-x for x in result)
    )
    return Case(
        "mutual information, and its gradient to one image",
        f"Gaussian windows, {BINS} bins, float32 {inputs.text(size.dense)}, as MONAI defines it.",
        inputs.nbytes(a, b, a),
        {OURS: Contestant(lambda: ours(a, b)), MONAI: theirs},
        inputs.exact(ours, a, b),
        tolerance=1e-4,  # of MONAI's sums in float32
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    "local-ncc": [
        partial(local_ncc, to=(0, 1), what="forward and backward to both images", targets=TARGETS),
        partial(local_ncc, to=(1,), what="forward and backward to one image", targets={}),
        local_ncc_windows,
    ],
    "local-ncc-offset": [
        partial(
            local_ncc,
            to=(0, 1),
            what="of images 10,000 standard deviations from zero",
            targets={},
            images=_offset,
            tolerance=1e-3,
        )
    ],
    "warp-local-ncc": [warp_local_ncc],
    "mutual-information": [mutual_information],
    "local-ncc-many": [
        partial(local_ncc_of_many, to=(0,), what="forward and backward to one image"),
        partial(local_ncc_of_many, to=(0, 1), what="forward and backward to both"),
    ],
}
