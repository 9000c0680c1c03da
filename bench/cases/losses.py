"""Losses."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import l2rfast

from .. import peers
from ..harness import OURS, Case, Contestant, Tensors
from . import inputs
from .inputs import Size


def local_ncc(size: Size) -> Case:
    a = inputs.image(size.dense, seed=1)
    b = 0.7 * a + 0.3 * inputs.image(size.dense, seed=3)

    def both(loss: Callable[[Tensor, Tensor], Tensor], *images: Tensor) -> Tensors:
        return inputs.with_gradients(loss, images, to=(0, 1))

    return Case(
        "local NCC, forward and backward to both images",
        f"Window 9, float32 {inputs.text(size.dense)}.",
        inputs.nbytes(a, b, a, b),
        {
            OURS: Contestant(lambda: both(l2rfast.local_ncc, a, b)),
            "PyTorch, separable convolutions": Contestant(lambda: both(peers.separable_local_ncc, a, b)),
        },
        inputs.exact(lambda *images: both(l2rfast.local_ncc, *images), a, b),
    )


FAMILIES: dict[str, list[Callable[[Size], Case]]] = {"local-ncc": [local_ncc]}
