"""Registration by a trained network, and from what it gives on, for the one pair, by refinement."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from l2rfast import _check, warp
from l2rfast.errors import InputError
from l2rfast.world.inverse import inverted

from ..contrast import one_contrast, recast
from ..discrete.levels import NAMES, Compared, levels_of, masks_of, refined
from ..discrete.options import DiscreteOptions
from ..intensities import from_zero_to_one, standardised
from ..method import Found, Method, Pair
from ..options import make_plain
from ..padding import Padding
from ..refine import pool, resample_field
from ..similarity import Weight
from ..stages import Stages
from ..weights import check_ending, check_options, is_of
from .network import Prediction, VoxelMorph
from .pyramid import FORMAT as PYRAMID
from .pyramid import LEARNED, Pyramid

# Of the best function's correlation, from which on intensities are compared as they are. Between two T1 a straight line
# has 0.99 and more, and is better by 0.01 of Dice; where the gamma of one was halved it has 0.97, and is worse by 0.04.
LINEAR = 0.98
KERAS = (".h5", ".hdf5")
Network = VoxelMorph | Pyramid
FINETUNE = 50  # of it, unless told


@dataclass(frozen=True)
class UnsupervisedOptions:
    """Parameters of the method.

    Attributes:
        weights: the network's: ``.safetensors`` of `VoxelMorph.save`, or ``.h5`` as published for Keras.
        finetune: steps of refinement of the network's field for this pair, as in the discrete method's default: of 16
            there are 6 at a quarter of the resolution, 8 at half, and 2 at all of it. It is by local NCC; of two
            contrasts, as the network's field has it, by that of moving in the contrast of fixed
            (`methods.contrast.recast`) and by MIND. The field has no folds then.
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
    check_options("unsupervised", preset, options, [field.name for field in fields(UnsupervisedOptions)])
    if "weights" not in options:
        raise InputError("weights: expected a file of weights for the method unsupervised")
    chosen = UnsupervisedOptions(**options)
    return with_network(read_weights(chosen.weights), finetune=chosen.finetune, weights=os.fspath(chosen.weights))


def learned(preset: str, **options: Any) -> Method:
    """The method with the network that comes with the package, for 3-D images of any two contrasts; its card is
    ``learned.md`` beside this file.

    Args:
        preset: it has none but ``"default"``.
        options: ``finetune``, as in `UnsupervisedOptions`; 50 unless told.

    Raises:
        InputError: an unknown preset or option.
    """
    check_options("learned", preset, options, ["finetune"])
    chosen = UnsupervisedOptions(os.fspath(LEARNED), **{"finetune": FINETUNE, **options})
    return with_network(read_weights(chosen.weights), method="learned", finetune=chosen.finetune)


def with_network(network: Network, *, method: str = "unsupervised", finetune: int = 0, **told: Any) -> Method:
    """The method with a network that is here, of images of its number of axes.

    Args:
        network: which is put on the images' device.
        method: its name.
        finetune: see `UnsupervisedOptions`.
        told: other options of it.
    """
    network.eval()
    axes = network.architecture.ndim

    def run(pair: Pair, stages: Stages) -> Found:
        if (got := pair.fixed.ndim - 2) != axes:
            raise InputError(
                f"method: learned is for {axes}-D images, got {got}-D ones"
                if method == "learned"
                else f"weights: expected those of a {got}-D network for these images, but they are of a {axes}-D one"
            )
        return register_unsupervised(pair, network.to(pair.fixed.device), finetune, stages)

    return Method({"method": method, **told, "finetune": finetune}, from_zero_to_one, run, optimises=bool(finetune))


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
    """
    fixed, moving = pair.fixed, pair.moving
    with stages.stage("network"):
        field = _predicted(fixed, moving, network)
    if not finetune:
        return Found(field)
    images = (
        standardised("fixed", fixed, pair.fixed_mask),
        standardised("moving", moving, pair.moving_mask),
    )
    options, stages.voxels = steps(finetune), fixed[0, 0].numel()
    level = levels_of(options, fixed.shape[2:], pair.spacing)[NAMES.index("half")]
    with stages.stage("contrast"):
        start = resample_field(field, [s // b for s, b in zip(fixed.shape[2:], level, strict=True)], 1, level)
        contrast, compared = _compared(images, pair, start, level)
    found = refined(compared, pair, options, (start, inverted(start)), level, stages)
    return Found(*found, options={"contrast": contrast})


def steps(number: int) -> DiscreteOptions:
    """So many steps of refinement, as they are shared out between the levels by default."""
    usual = DiscreteOptions()
    shares = usual.coarse_iterations, usual.iterations, usual.full_iterations
    coarse, full = (round(number * share / sum(shares)) for share in (shares[0], shares[2]))
    return replace(
        usual, metric="lncc", coarse_iterations=coarse, iterations=number - coarse - full, full_iterations=full
    )


def _compared(
    images: tuple[Tensor, Tensor], pair: Pair, field: Tensor, level: Sequence[int]
) -> tuple[str, list[Compared]]:
    """What two images that a field of a level has aligned were like, and what they are compared by."""
    fixed, moving = (pool(image, level) for image in images)
    counts, warped = Weight(*masks_of(pair, level)).at(field), warp(moving, field)
    alike, why = one_contrast(fixed, warped, counts, linear=LINEAR)
    if alike:
        return f"one: {why}", [Compared(images, "lncc", 1.0)]
    # What an intensity means may differ from place to place, of which MIND knows nothing.
    new = standardised("moving", recast(images[1], warped, fixed, counts), pair.moving_mask)
    return f"two: {why}", [Compared((images[0], new), "lncc", 1.0), Compared(images, "mind", 1.0)]


def _predicted(fixed: Tensor, moving: Tensor, network: Network) -> Tensor:
    """With background around the images up to sizes that the network takes."""
    padding = Padding(fixed.shape[2:], network.architecture.multiple)
    with torch.inference_mode():
        prediction: Prediction = network(padding.pad(moving), padding.pad(fixed))
    return padding.crop(prediction.displacement).clone()
