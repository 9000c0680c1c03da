"""Registration by a network that was trained on labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from l2rfast.errors import InputError, notice

from .. import weights
from ..intensities import from_zero_to_one
from ..method import Found, Method, Pair
from ..stages import Stages
from .model import LabelReg

# Networks that come with the package, by the name that weights may be; beside each, as .md, its card.
SHIPPED = {"prostates": Path(__file__).with_name("prostates.safetensors")}


def weakly_supervised(preset: str, **options: Any) -> Method:
    """The method, its network read.

    Args:
        preset: it has none but ``"default"``.
        options: ``weights``, a file of `LabelReg.save`, or the name of a network that comes with the package: of
            `SHIPPED`.

    Raises:
        InputError: an unknown preset or option, or weights that are missing or cannot be used.
    """
    path = weights.only_option("weakly-supervised", preset, options, SHIPPED)
    network = read_weights(path).eval()

    def run(pair: Pair, stages: Stages) -> Found:
        ndim, fixed = network.architecture.plan.ndim, pair.fixed
        if fixed.ndim - 2 != ndim:
            raise InputError(f"weights: expected those of a {fixed.ndim - 2}-D network, but they are of a {ndim}-D one")
        with stages.stage("network"), torch.inference_mode():
            network.to(fixed.device)
            if network.architecture.kind == "moments":
                maps = network.maps(pair.moving, fixed)
                for name, logit in zip(("moving", "fixed"), maps, strict=True):
                    if not bool((logit > 0).any()):
                        notice(f"{name}: the network finds nothing in it of the label that it was trained on")
                found = network.aligned(maps, fixed.shape[2:])
            else:
                found = network(pair.moving, fixed)
        return Found(found.clone())

    described = {"method": "weakly-supervised", "weights": path}
    return Method(described, from_zero_to_one, run, aligned=False, optimises=False)


def read_weights(path: str) -> LabelReg:
    """The network of a file, or one that comes with the package, by its name.

    Raises:
        InputError: weights that are missing or cannot be used.
    """
    if path not in SHIPPED:
        weights.check_ending(path, (".safetensors",), f", or {' or '.join(SHIPPED)}")
    return LabelReg.load(SHIPPED.get(path, path))
