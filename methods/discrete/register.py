"""Registration by a discrete network that was trained."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2rfast.errors import InputError

from .. import weights
from ..intensities import AIR, Prepared, from_zero_to_one
from ..method import Found, Method, Pair
from ..padding import Padding
from ..stages import Stages
from .pddnet import FORMAT, PDDNet
from .points import Prediction, spread
from .tutorial import TutorialNet2d

HOUNSFIELD = 500.0  # of a unit, where a network is of CT

Network = PDDNet | TutorialNet2d


def pddnet(preset: str, **options: Any) -> Method:
    """The method, its network read.

    Raises:
        InputError: an unknown preset or option, or weights that are missing or cannot be used.
    """
    path = weights.only_option("pddnet", preset, options)
    return with_network(read_weights(path), path)


def read_weights(path: str | os.PathLike[str]) -> Network:
    """The network of a ``.safetensors`` file, or of the two published ``.pth`` files, with a comma between.

    Raises:
        InputError: weights that cannot be read.
    """
    published = os.fspath(path).split(",")
    if len(published) == 2:
        return PDDNet.from_published(*published)
    weights.check_ending(os.fspath(path), (".safetensors",), ", or two published .pth with a comma between")
    return PDDNet.load(path) if weights.is_of(path, FORMAT) else TutorialNet2d.load(path)


def with_network(network: Network, path: str = "") -> Method:
    """The method with a network that is here, of images of its number of axes."""
    network.eval()
    return Method({"method": "pddnet", "weights": path}, seen(network)[0], partial(_run, network), optimises=False)


def seen(network: Network) -> tuple[Prepared, float]:
    """The intensities that a network takes, and what they are of the background, or of air."""
    if isinstance(network, PDDNet) and network.architecture.intensities == "ct":
        return _in_units, AIR / HOUNSFIELD
    return from_zero_to_one, 0.0


def _in_units(name: str, image: Tensor, mask: Tensor | None = None) -> Tensor:
    return image / HOUNSFIELD


def _run(network: Network, pair: Pair, stages: Stages) -> Found:
    ndim, fixed, moving = network.ndim, pair.fixed, pair.moving
    if fixed.ndim - 2 != ndim:
        raise InputError(f"weights: expected those of a {fixed.ndim - 2}-D network, but they are of a {ndim}-D one")
    padding, background = Padding(fixed.shape[2:], network.multiple), seen(network)[1]
    with stages.stage("network"), torch.inference_mode():
        images = (padding.pad(image, background) for image in (fixed, moving))
        found: Prediction = network.to(fixed.device)(*images)
        corners = isinstance(network, PDDNet) and network.architecture.align_corners
        entropy = spread(found.choices[0].entropy, found.displacement.shape[2:], corners)
    return Found(padding.crop(found.displacement).clone(), entropy=padding.crop(entropy).clone())
