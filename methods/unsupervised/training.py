"""Training of VoxelMorph: without labels, with them, or probabilistic."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from l2rfast import _check, warp
from l2rfast.errors import InputError
from l2rfast.losses import dice, diffusion_energy

from ..method import Method
from ..options import make_plain, option
from ..training.aligned import AlignedTask, check_window, distance
from ..training.cases import Pairs, find_pairs
from ..training.options import TrainerOptions
from ..training.run import Description
from ..training.trainer import Batch, Progress, train
from .network import Architecture, Prediction, VoxelMorph
from .pyramid import Plan, Pyramid
from .register import read_weights, with_network

# What a distance is weighed against the smoothness with, unless told: VoxelMorph's own weights for the first two.
SMOOTHNESS = {"lncc": 1.0, "mse": 0.01, "mind": 0.1}
NETWORKS = ("voxelmorph", PYRAMID := "pyramid")
# Options that a pyramid has not, whose fields are always of velocities.
OF_VOXELMORPH = ("velocity", "half", "coarse", "probabilistic", "encoder", "decoder", "checkpointing")
FLAT = Architecture(2, (32, 32, 32, 32), (32, 32, 32, 32, 32, 16))  # the published 2-D network


@dataclass(frozen=True)
class TrainingOptions:
    """What network to train, and on what loss. The texts beside the fields are those of the command line."""

    network: str = option("voxelmorph", "voxelmorph, or pyramid, which compares features: no size or kind to choose.")
    similarity: str = option("lncc", "lncc, mse, or mind for images of two modalities.")
    window: int = option(9, "Of lncc, voxels, odd.")
    smoothness: float | None = option(None, "Weight of the diffusion or KL term; default: lncc 1, mse 0.01, mind 0.1.")
    segmentation: float = option(0.0, "Weight of the Dice loss of the labels, where scans have them.")
    velocity: bool = option(False, "Predict a velocity and integrate it: fields without folds.")
    half: bool = option(False, "Integrate at half the resolution.")
    coarse: bool = option(False, "See the images at half their resolution: an eighth of the work.")
    bidirectional: bool = option(False, "Compare in both directions; needs a velocity.")
    probabilistic: bool = option(False, "Predict a variance too, with a KL term; needs a velocity.")
    precision_of_prior: float = option(10.0, "Of the KL term: how smooth velocities are expected to be.")
    encoder: tuple[int, ...] = option((), "Channels, as in 16,32,32,32; default: as published.")
    decoder: tuple[int, ...] = option((), "Channels, as in 32,32,32,32,32,16,16; default: as published.")
    weights: str = option("", "Of a network to start from, as it is made: .safetensors or Keras' .h5.")
    checkpointing: bool = option(False, "Compute again what the backward pass needs: less memory, more time.")

    def __post_init__(self) -> None:
        make_plain(self)
        _check.choice("network", self.network, NETWORKS)
        if self.similarity not in SMOOTHNESS:
            raise InputError(f"similarity: expected one of {', '.join(SMOOTHNESS)}, got {self.similarity!r}")
        check_window(self.window)
        for name in ("smoothness", "segmentation", "precision_of_prior"):
            value = getattr(self, name)
            if value is not None:
                _check.not_negative(name, value)
        if self.network == PYRAMID:
            for name in OF_VOXELMORPH:
                if getattr(self, name):
                    raise InputError(f"{name}: of the network voxelmorph, got it beside pyramid")
        elif self.bidirectional and not (self.velocity or self.weights):
            raise InputError("bidirectional: expected a network with velocity=True")

    def made(self, ndim: int) -> VoxelMorph | Pyramid:
        """A new one, or the one to start from.

        Raises:
            InputError: an architecture that is none, weights that cannot be read, or are of other images.
        """
        if self.weights:
            network = read_weights(self.weights)
            if network.architecture.ndim != ndim:
                raise InputError(f"weights: expected those of a {ndim}-D network, as the scans are")
            if isinstance(network, Pyramid) != (self.network == PYRAMID):
                raise InputError(f"weights: expected those of the network {self.network}, got {self.weights!r}")
            if isinstance(network, VoxelMorph):
                if self.bidirectional and not network.architecture.velocity:
                    raise InputError("bidirectional: expected weights of a network with velocity=True")
                network.checkpointed = self.checkpointing
            return network
        if self.network == PYRAMID:
            return Pyramid(Plan(ndim))
        published = Architecture() if ndim == 3 else FLAT
        architecture = Architecture(
            ndim,
            self.encoder or published.encoder,
            self.decoder or published.decoder,
            velocity=self.velocity,
            half=self.half,
            coarse=self.coarse,
            probabilistic=self.probabilistic,
        )
        return VoxelMorph(architecture, checkpointed=self.checkpointing)


def train_unsupervised(
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
    """Train VoxelMorph on a data set.

    Args:
        data, atlas, hold_out: see `methods.training.cases.find_pairs`.
        out: folder of the run; ``weights.safetensors`` there is what `VoxelMorph.load` and ``l2rfast register`` take.
        options: see `TrainingOptions`.
        trainer: see `methods.training.options.TrainerOptions`.
        device, resume, progress: see `methods.training.trainer.train`; the CPU unless told.

    Raises:
        InputError: options, data or a folder that cannot be used.
    """
    options, trainer = options or TrainingOptions(), trainer or TrainerOptions()
    pairs = find_pairs(data, atlas=atlas, hold_out=hold_out)
    task = UnsupervisedTask(pairs, options, trainer)
    described = Description.of("unsupervised", data, pairs.identity(), options, trainer, atlas=atlas, hold_out=hold_out)
    place = device or torch.device("cpu")
    train(task, out, trainer, described=described, device=place, resume=resume, progress=progress)


class UnsupervisedTask(AlignedTask):
    """See `methods.training.aligned.AlignedTask`.

    Args:
        pairs, trainer: as there.
        options: see `TrainingOptions`.
    """

    network: VoxelMorph | Pyramid

    def __init__(self, pairs: Pairs, options: TrainingOptions, trainer: TrainerOptions) -> None:
        super().__init__(pairs, trainer, "segmentation" if options.segmentation else "")
        self.options = options
        self.network = options.made(self.ndim)
        self.multiple = self.network.architecture.multiple
        chosen = options.smoothness
        self.smoothness = SMOOTHNESS[options.similarity] if chosen is None else chosen

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        fixed, moving = batch["fixed"], batch["moving"]
        found: Prediction = self.network(moving, fixed)
        distance = self.distance(fixed, moving, found.displacement)
        if self.options.bidirectional:
            assert found.inverse is not None
            distance = (distance + self.distance(moving, fixed, found.inverse)) / 2
        losses = {"similarity": distance, "smoothness": self.smoothness * self._regulariser(found)}
        if self.options.segmentation:
            warped = warp(batch["moving_labels"], found.displacement)
            losses["segmentation"] = self.options.segmentation * dice(batch["fixed_labels"], warped)
        return losses

    def _regulariser(self, found: Prediction) -> Tensor:
        """The diffusion of what the network says, or, of a probabilistic one, the KL divergence of Dalca et al. 2019,
        equation 8: of the predicted velocities from the prior whose precision is that multiple of the Laplacian.
        """
        diffusion = diffusion_energy(found.field)
        if found.log_variance is None:
            return diffusion
        precision, ndim = self.options.precision_of_prior, found.field.shape[1]
        neighbours = 2 * ndim - sum(2 / size for size in found.field.shape[2:])  # of a voxel, on average
        variance = precision * neighbours * found.log_variance.exp() - found.log_variance
        return 0.5 * ndim * (variance.mean() + precision * diffusion / 2)

    def method(self) -> Method:
        return with_network(self.network)

    def distance(self, fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
        return distance(self.options.similarity, self.options.window, fixed, moving, displacement)
