"""Training of the discrete networks: on labels, or on images alone."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from l2rfast import _check
from l2rfast.errors import InputError
from l2rfast.losses import diffusion_energy

from ..intensities import from_zero_to_one
from ..method import Method
from ..options import make_plain, option
from ..training.aligned import AlignedTask, check_window, distance
from ..training.cases import Pairs, find_pairs
from ..training.options import TrainerOptions
from ..training.run import Description
from ..training.trainer import Batch, Progress, train
from .pddnet import Architecture, PDDNet
from .register import Network, read_weights, seen, with_network
from .tutorial import Flat, TutorialNet2d

LOSSES = ("labels", "lncc", "mind")


@dataclass(frozen=True)
class TrainingOptions:
    """What network to train, and on what loss. The texts beside the fields are those of the command line."""

    loss: str = option("labels", "labels, which scans then need; lncc, or mind for images of two modalities.")
    window: int = option(9, "Of lncc, voxels, odd.")
    smoothness: float = option(0.01, "Weight of the diffusion of the field.")
    features: str = option("obelisk", "Of 3-D scans: obelisk or cnn.")
    grid: tuple[int, ...] = option((29, 39), "Of 3-D scans: control points along an axis, one number for each warp.")
    search: tuple[int, ...] = option((11, 11), "Of 3-D scans: displacements along an axis, one number for each warp.")
    extent: tuple[float, ...] = option((0.25, 0.15), "Their reach, as fractions of half the size.")
    passes: int = option(2, "Of 3-D scans: how often costs are regularised, 1 or 2.")
    min_convolution: str = option("pooled", "Of 3-D scans: pooled, or exact with a weight that is learned.")
    intensities: str = option("zero-to-one", "Of 3-D scans: zero-to-one, or ct: Hounsfield units, 500 of them a unit.")
    radius: int = option(4, "Of 2-D scans: of the search, quarters of the resolution.")
    weights: str = option("", "Of a network to start from, as it is made: .safetensors, or the two .pth with a comma.")

    def __post_init__(self) -> None:
        make_plain(self)
        if self.loss not in LOSSES:
            raise InputError(f"loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}")
        check_window(self.window)
        _check.not_negative("smoothness", self.smoothness)

    def network(self, ndim: int) -> Network:
        """A new one, or the one to start from.

        Raises:
            InputError: an architecture that is none, weights that cannot be read, or are of other images.
        """
        if self.weights:
            network = read_weights(self.weights)
            if network.ndim != ndim:
                raise InputError(f"weights: expected those of a {ndim}-D network, as the scans are")
            return network
        if ndim == 2:
            return TutorialNet2d(Flat(self.radius))
        return PDDNet(
            Architecture(
                self.features,
                grid=self.grid,
                search=self.search,
                extent=self.extent,
                passes=self.passes,
                min_convolution=self.min_convolution,
                intensities=self.intensities,
            )
        )


def train_discrete(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    trainer: TrainerOptions | None = None,
    *,
    atlas: str | None = None,
    hold_out: int = 0,
    device: torch.device | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> None:
    """Train PDD-Net on 3-D scans, the tutorial's network on 2-D ones.

    Args:
        data, atlas, hold_out: see `methods.training.cases.find_pairs`.
        out: folder of the run; ``weights.safetensors`` there is what ``l2rfast register --method pddnet`` takes.
        options: see `TrainingOptions`.
        trainer: see `methods.training.options.TrainerOptions`.
        device, resume, progress: see `methods.training.trainer.train`; the CPU unless told.

    Raises:
        InputError: options, data or a folder that cannot be used.
    """
    options, trainer = options or TrainingOptions(), trainer or TrainerOptions()
    pairs = find_pairs(data, atlas=atlas, hold_out=hold_out)
    task = DiscreteTask(pairs, options, trainer)
    described = Description.of("discrete", data, pairs.identity(), options, trainer, atlas=atlas, hold_out=hold_out)
    place = device or torch.device("cpu")
    train(task, out, trainer, described=described, device=place, resume=resume, progress=progress)


class DiscreteTask(AlignedTask):
    """See `methods.training.aligned.AlignedTask`.

    Args:
        pairs, trainer: as there.
        options: see `TrainingOptions`.
    """

    network: Network

    def __init__(self, pairs: Pairs, options: TrainingOptions, trainer: TrainerOptions) -> None:
        super().__init__(pairs, trainer, "loss" if options.loss == "labels" else "")
        self.options = options
        self.network = options.network(self.ndim)
        self.multiple = self.network.multiple
        self.prepared, self.background = seen(self.network)
        if trainer.intensity and self.prepared is not from_zero_to_one:
            raise InputError("intensity: expected 0, as the network takes Hounsfield units, which mean what they are")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        fixed, moving = batch["fixed"], batch["moving"]
        found = self.network(fixed, moving, probabilities=self.labelled)
        losses = {"smoothness": self.options.smoothness * diffusion_energy(found.displacement)}
        if not self.labelled:
            return {"similarity": self.distance(fixed, moving, found.displacement), **losses}
        pairs = self.network.labels(found.choices, batch["fixed_labels"], batch["moving_labels"])
        return {"labels": torch.stack([non_local(*pair) for pair in pairs]).mean(), **losses}

    def method(self) -> Method:
        return with_network(self.network)

    def distance(self, fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
        similarity = "lncc" if self.options.loss == "labels" else self.options.loss
        return distance(similarity, self.options.window, fixed, moving, displacement)


def non_local(truth: Tensor, expected: Tensor) -> Tensor:
    """The non-local label loss: squared differences of labels, those of a rare label weighted more.

    Args:
        truth: (N, K, *grid), likelihoods of the fixed labels.
        expected: the same of moving, under the probabilities of its displacements.

    Returns:
        A scalar: the mean, each label weighted by 1 / sqrt(its frequency in truth), the mean weight 1 (Heinrich,
        MICCAI 2019). A label that is nowhere weighs as one of a single control point.
    """
    frequency = truth.flatten(2).mean(2).clamp(min=1 / truth[0, 0].numel())
    weight = frequency.rsqrt()
    weight = weight / weight.mean(1, keepdim=True)
    return (weight * (truth - expected).square().flatten(2).mean(2)).mean()
