"""Registration by a trained network, and from what it gives on, for the one pair, by refinement."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from l2rfast import _check
from l2rfast.errors import InputError
from l2rfast.world.inverse import inverted

from ..folds import settled
from ..intensities import from_zero_to_one, standardised
from ..landmarks import guided
from ..method import Found, Method, Pair
from ..options import make_plain
from ..padding import Padding
from ..refine import pool, refine, resample_field, resampled
from ..similarity import both_ways, lncc_distance, window_of
from ..stages import Stages
from ..weights import check_ending, is_of
from .network import Prediction, VoxelMorph
from .pyramid import FORMAT as PYRAMID
from .pyramid import Pyramid

LEVEL = 2  # voxels between the points of the fine-tuned field
WINDOW = 21  # of its local NCC
KERAS = (".h5", ".hdf5")
Network = VoxelMorph | Pyramid
RATE = 1.3  # as in the discrete method's refinement


@dataclass(frozen=True)
class UnsupervisedOptions:
    """Parameters of the method.

    Attributes:
        weights: the network's: ``.safetensors`` of `VoxelMorph.save`, or ``.h5`` as published for Keras.
        finetune: steps of refinement of the network's field for this pair, by local NCC of window 21, or a sixth
            of the image, at half the resolution; the field has no folds then.
    """

    weights: str
    finetune: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        if not isinstance(self.weights, str | os.PathLike):
            raise InputError(f"weights: expected a path, got {self.weights!r}")
        _check.at_least("finetune", self.finetune, 0, most=math.inf)


def unsupervised(preset: str, **options: Any) -> Method:
    """The method, its options chosen and its network read.

    Raises:
        InputError: an unknown preset or option, or weights that are missing or cannot be used.
    """
    if preset != "default":
        raise InputError(f"preset: the method unsupervised has none, got {preset!r}")
    known = [field.name for field in fields(UnsupervisedOptions)]
    for name in options:
        if name not in known:
            raise InputError(f"{name}: no option of the method unsupervised; expected one of {', '.join(known)}")
    if "weights" not in options:
        raise InputError("weights: expected a file of weights for the method unsupervised")
    chosen = UnsupervisedOptions(**options)
    return with_network(read_weights(chosen.weights), finetune=chosen.finetune, weights=os.fspath(chosen.weights))


def with_network(network: Network, *, finetune: int = 0, weights: str = "") -> Method:
    """The method with a network that is here, of images of its number of axes."""
    network.eval()
    return Method(
        {"method": "unsupervised", "weights": weights, "finetune": finetune},
        from_zero_to_one,
        lambda pair, stages: register_unsupervised(pair, network.to(pair.fixed.device), finetune, stages),
        optimises=bool(finetune),
    )


def read_weights(path: str | os.PathLike[str]) -> Network:
    """The network of a file, by its ending: as published for Keras, or our own.

    Raises:
        InputError: weights that cannot be read.
    """
    name = os.fspath(path)
    check_ending(name, (".safetensors", *KERAS))
    if name.endswith(KERAS):
        return VoxelMorph.from_keras(name)
    return Pyramid.load(name) if is_of(name, PYRAMID) else VoxelMorph.load(name)


def register_unsupervised(pair: Pair, network: Network, finetune: int, stages: Stages) -> Found:
    """Displacement field from a fixed to a moving image on the same grid.

    Args:
        pair: of intensities as the network was trained on. The network sees 0, the background, outside of masks that
            were given; the fine-tuning sees nothing there.
        network: on its device.
        finetune: see `UnsupervisedOptions`.
        stages: times the stages and reports their progress.

    Returns:
        (1, ndim, *spatial) in voxels: moving at x + disp(x) corresponds to fixed at x; fine-tuned with its inverse.

    Raises:
        InputError: a network for images of another number of axes.
    """
    fixed, moving, ndim = pair.fixed, pair.moving, network.architecture.ndim
    if fixed.ndim - 2 != ndim:
        raise InputError(
            f"weights: expected those of a {fixed.ndim - 2}-D network for these images, but they are of a {ndim}-D one"
        )
    with stages.stage("network"):
        field = _predicted(fixed, moving, network)
    if not finetune:
        return Found(field)
    size, masks = fixed.shape[2:], (pair.fixed_mask, pair.moving_mask)
    images = standardised("fixed", fixed, masks[0]), standardised("moving", moving, masks[1])
    stages.voxels = fixed[0, 0].numel()
    with stages.stage("fine-tuning"):
        start = resample_field(field, [s // LEVEL for s in size], 1, LEVEL)
        level = start.shape[2:], [LEVEL] * ndim, [1.0] * ndim
        fields = start, inverted(start)
        refined = refine(
            guided(
                both_ways(
                    lncc_distance,
                    [pool(image, LEVEL) for image in images],
                    [None if mask is None else pool(mask, LEVEL) for mask in masks],
                    window_of(WINDOW, start.shape[2:], [1.0] * ndim),
                ),
                pair.landmarks,
                *level,
            ),
            fields,
            iterations=finetune,
            rate=RATE,
            stages=stages,
        )
        return Found(*settled(resampled(refined or fields, size, LEVEL, 1)))


def _predicted(fixed: Tensor, moving: Tensor, network: Network) -> Tensor:
    """With background around the images up to sizes that the network takes."""
    padding = Padding(fixed.shape[2:], network.architecture.multiple)
    with torch.inference_mode():
        prediction: Prediction = network(padding.pad(moving), padding.pad(fixed))
    return padding.crop(prediction.displacement).clone()
