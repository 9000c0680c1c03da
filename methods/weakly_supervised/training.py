"""Training of label-reg: of a pair of scans one pair of labels at a time, warped by the field that the images give."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast import warp
from l2rfast.errors import InputError, notice
from l2rfast.io import Volume, as_volume, read_landmarks, read_masks
from l2rfast.label_losses import label_loss, multiscale_loss
from l2rfast.metrics import folding_fraction

from ..intensities import from_zero_to_one
from ..names import some
from ..options import refuse
from ..refine import pool
from ..training.augmentation import Shared, deformed, random_intensities
from ..training.bad_scans import STOP, drawn, first_usable
from ..training.cases import KINDS, Case, Pair, Pairs, cases_of, check_axes, check_size, find_pairs, kept
from ..training.options import TrainerOptions
from ..training.run import Description
from ..training.trainer import Batch, Progress, Task, train
from .model import LabelReg
from .moments import MomentsNet
from .options import ENERGIES, TrainingOptions, of_preset
from .register import read_weights

# What has no meaning for moments, whose loss is of maps, and whose networks see each image where it is.
WITHOUT = ("norm", "levels", "start", "similarity", "sigmas", "energy", "smoothness")
POINT = 2.0  # voxels, the standard deviation of the blob that a landmark is as a label
LOST = "rate: all labels of moving were moved out of fixed, from where no gradient leads back; a lower one may help"


@dataclass(frozen=True, eq=False)
class Labelled:
    """A scan: its image, from 0 to 1, and its labels by number, (*spatial) float."""

    image: Volume
    labels: dict[int, Tensor]


@kept
def labelled(case: Case) -> Labelled:
    """Landmarks, or keypoints where there are none, become labels after the others: blobs around them.

    Raises:
        InputError: files that cannot be read or do not fit.
    """
    image = as_volume("data", case.image, dims=(2, 3))
    scaled = Volume(from_zero_to_one(str(case.image), image.data), image.affine)
    labels: dict[int, Tensor] = {}
    if case.labels is not None:
        labels = {number: mask.float() for number, mask in read_masks(case.labels, image).items()}
    points = case.landmarks or case.keypoints
    if points is not None:
        first = 1 + max(labels, default=-1)
        for i, point in enumerate(read_landmarks(points, image)):
            labels[first + i] = _blob(point, tuple(image.data.shape))
    return Labelled(scaled, labels)


def _to_train_on(pair: Pair, first: bool) -> tuple[Labelled, Labelled]:
    """
    Args:
        pair: of which both scans have to have labels, one of them at least the same.
        first: whether that has to be the first.

    Raises:
        InputError: such labels are not there, or files that cannot be read.
    """
    scans = labelled(pair.fixed), labelled(pair.moving)
    for case, scan in zip((pair.fixed, pair.moving), scans, strict=True):
        if not scan.labels:
            raise InputError(f"data ({case.labels or case.image}): expected labels to train on, and found none")
    if not scans[0].labels.keys() & scans[1].labels.keys():
        raise InputError(f"data: expected a label that both {pair.fixed.image} and {pair.moving.image} have")
    for case, scan in zip((pair.fixed, pair.moving), scans, strict=True):
        if first and 0 not in scan.labels:
            got = some([str(1 + label) for label in scan.labels])
            raise InputError(f"data ({case.labels or case.image}): expected label 1, for moments, found {got}")
    return scans


def _blob(point: Tensor, size: tuple[int, ...]) -> Tensor:
    axes = [torch.exp(-0.5 * ((torch.arange(s) - p) / POINT) ** 2) for s, p in zip(size, point.tolist(), strict=True)]
    blob = axes[0]
    for axis in axes[1:]:
        blob = blob[..., None] * axis
    return blob


def train_weakly_supervised(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    trainer: TrainerOptions | None = None,
    *,
    hold_out: int = 0,
    device: torch.device | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> None:
    """Train label-reg on a data set.

    Args:
        data, hold_out: see `methods.training.cases.find_pairs`.
        out: folder of the run; ``weights.safetensors`` there is what `LabelReg.load` and ``l2rfast register`` take.
        options: see `TrainingOptions`; those of the preset ``"cpu"`` unless told.
        trainer: see `methods.training.options.TrainerOptions`; likewise.
        device, resume, progress: see `methods.training.trainer.train`; the CPU unless told.

    Raises:
        InputError: options, data or a folder that cannot be used.
    """
    usual = of_preset()
    options, trainer = options or usual[0], trainer or usual[1]
    pairs = find_pairs(data, hold_out=hold_out)
    task = WeaklySupervisedTask(pairs, options, trainer)
    described = Description.of("weakly-supervised", data, pairs.identity(), options, trainer, hold_out=hold_out)
    place = device or torch.device("cpu")
    train(task, out, trainer, described=described, device=place, resume=resume, progress=progress)


class WeaklySupervisedTask(Task):
    """See `methods.training.trainer.Task`.

    Args:
        pairs: what to train on.
        options: see `TrainingOptions`.
        trainer: whose augmentation and seed count here.

    Raises:
        InputError: scans that cannot be read, or to train on without labels, or a pair without one in common.
    """

    scores: ClassVar[Mapping[str, bool]] = {"DSC": True, "centroids": False}

    def __init__(self, pairs: Pairs, options: TrainingOptions, trainer: TrainerOptions) -> None:
        super().__init__()
        self.pairs, self.options, self.trainer = pairs, options, trainer
        self.validations = len(pairs.validation)
        torch.manual_seed(trainer.seed)
        without = [str(case.image) for case in cases_of(pairs.training) if not case.files.keys() & set(KINDS)]
        if without and trainer.bad_scans == STOP:
            raise InputError(f"data: expected labels or landmarks of every scan, and found none of {some(without)}")
        self.first, scans = first_usable(pairs.training, self._labelled, trainer.bad_scans)
        self.sizes = [tuple(scan.image.data.shape) for scan in scans]
        size = self.sizes[0]
        trainer.check_axes(size)
        self.network = read_weights(options.weights) if options.weights else LabelReg(options.architecture(size))
        if (kind := self.network.architecture.kind) != options.network:
            raise InputError(f"weights: expected those of the network {options.network}, got those of {kind}")
        if kind == "moments":
            refuse(options, WITHOUT, "the network moments")
            assert isinstance(self.network.network, MomentsNet)
            self.network.network.forget()  # of the pairs of other data that weights may begin with
        if self.network.architecture.plan.ndim != len(size):
            raise InputError(f"weights: expected those of a {len(size)}-D network, as the scans are")

    def sample(self, random: torch.Generator) -> Batch:
        _, (fixed, moving) = self._drawn(random)
        both = sorted(fixed.labels.keys() & moving.labels.keys())
        label = both[int(torch.randint(len(both), (), generator=random))]
        shared = Shared.drawn(self.trainer, random)
        batch: Batch = {}
        o, level = self.options, 1
        if self.network.architecture.kind == "moments":  # whose maps are of label 0, and of nothing finer than they are
            label, level = 0, self.network.architecture.level
        for role, scan, shift in (("fixed", fixed, o.fixed_shift), ("moving", moving, o.shift)):
            # Zeros where there is no such label. Beyond its border the image goes on: of a black rim a network learns
            # how far it was moved.
            mask = scan.labels.get(label, torch.zeros_like(scan.image.data))
            stack = pool(torch.stack([scan.image.data, mask])[None], level)
            moved = deformed(stack, self.trainer, random, shared, shift=shift, apart=1, level=level)[0]
            image = moved[:1]
            if self.trainer.intensity:
                image = random_intensities(image, self.trainer.intensity, random)
            batch |= {role: image, f"{role}_label": moved[1:]}
        return batch

    def names(self, random: torch.Generator) -> tuple[str, str]:
        pair, _ = self._drawn(random)
        return str(pair.fixed.image), str(pair.moving.image)

    def _drawn(self, random: torch.Generator) -> tuple[Pair, tuple[Labelled, Labelled]]:
        """A pair to train on.

        Raises:
            InputError: a scan that cannot be used.
        """
        return first_usable(drawn(self.pairs, random), self._usable, self.trainer.bad_scans)

    def _labelled(self, pair: Pair) -> tuple[Labelled, Labelled]:
        return _to_train_on(pair, first=self.options.network == "moments")

    def _usable(self, pair: Pair) -> tuple[Labelled, Labelled]:
        scans = self._labelled(pair)
        self._check_axes(pair, scans)
        if self.trainer.batch > 1:
            check_size(self.first.fixed, self.sizes[0], pair.fixed, scans[0].image)
            check_size(self.first.moving, self.sizes[1], pair.moving, scans[1].image)
        return scans

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        moving, fixed = batch["moving"], batch["fixed"]
        if isinstance(self.network.network, MomentsNet):
            truth = batch["moving_label"], batch["fixed_label"]
            self.network.network.observe(*truth)
            pairs = zip(self.network.network.maps(moving, fixed), truth, strict=True)
            return {"maps": torch.stack([_map_loss(*pair) for pair in pairs]).sum()}
        field = self.network(moving, fixed)
        warped = warp(batch["moving_label"], field, padding="zeros")
        if not warped.any() and batch["moving_label"].any():
            notice(LOST)
        distance = multiscale_loss(batch["fixed_label"], warped, self.options.similarity, sigmas=self.options.sigmas)
        energy = ENERGIES[self.options.energy](field)
        return {"similarity": distance, "smoothness": self.options.smoothness * energy}

    def validate(self, index: int) -> dict[str, float]:
        """Of label 0, the Dice overlap of what is at least half inside; of all labels the distance of centroids."""
        pair = self.pairs.validation[index]
        fixed, moving = self._scans(pair)
        field = self._field(fixed, moving)
        found: dict[str, float] = {}
        distances = []
        for label in sorted(fixed.labels.keys() & moving.labels.keys()):
            truth, warped = fixed.labels[label], warp(moving.labels[label][None, None], field, padding="zeros")[0, 0]
            if label == 0:
                a, b = truth >= 0.5, warped >= 0.5
                found["DSC"] = float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1))
            if warped.sum() > 0:
                distances.append(float((centroid(truth) - centroid(warped)).norm()))
        found["centroids"] = fmean(distances) if distances else math.nan
        found["num_foldings"] = 100 * float(folding_fraction(field))
        return found

    def _scans(self, pair: Pair) -> tuple[Labelled, Labelled]:
        """To validate with."""
        scans = labelled(pair.fixed), labelled(pair.moving)
        self._check_axes(pair, scans)
        return scans

    def _check_axes(self, pair: Pair, scans: tuple[Labelled, Labelled]) -> None:
        images = {pair.fixed: scans[0].image, pair.moving: scans[1].image}
        check_axes(self.first.fixed, self.network.architecture.plan.ndim, images)

    def _field(self, fixed: Labelled, moving: Labelled) -> Tensor:
        device = next(self.network.parameters()).device
        images = [scan.image.data[None, None].to(device) for scan in (moving, fixed)]
        result: Tensor = self.network(*images).cpu()
        return result

    def picture(self) -> Tensor:
        """Of the first pair for validation: the middle slice of fixed, warped moving, and both first labels."""
        _, (fixed, moving) = first_usable(self.pairs.validation, self._scans, self.trainer.bad_scans)
        field = self._field(fixed, moving)
        nothing = torch.zeros_like(fixed.image.data), torch.zeros_like(moving.image.data)
        both = sorted(fixed.labels.keys() & moving.labels.keys())[:1]
        first = [scan.labels[both[0]] if both else zeros for scan, zeros in zip((fixed, moving), nothing, strict=True)]
        warped = [warp(x[None, None], field, padding="zeros")[0, 0] for x in (moving.image.data, first[1])]
        shown = [fixed.image.data, warped[0], (first[0] + warped[1]) / 2]
        flat = [image if image.ndim == 2 else image[image.shape[0] // 2] for image in shown]
        return torch.cat(flat, 1).clamp(0, 1)

    def save(self, folder: Path) -> None:
        self.network.save(folder / "weights.safetensors")


def _map_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Dice and cross-entropy, of the items that have the label."""
    overlap = label_loss(label, torch.sigmoid(logit), reduction="none")[:, 0]
    entropy = F.binary_cross_entropy_with_logits(logit, label.clamp(0, 1), reduction="none").flatten(1).mean(1)
    return ((overlap + entropy) * (label.flatten(1).sum(1) > 0)).mean()


def centroid(mask: Tensor) -> Tensor:
    """(ndim,) in voxels."""
    axes = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in mask.shape), indexing="ij")
    weights = mask.double()
    return (torch.stack(axes) * weights).flatten(1).sum(1) / weights.sum()
