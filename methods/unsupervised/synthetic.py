"""Training on images that are painted from label maps: a network for scans of any contrast, from no scan at all.

SynthMorph (Hoffmann et al., IEEE TMI 2022). What is minimised is 1 - soft Dice of the labels, which do not depend on
the contrasts, and the diffusion of what the network predicts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor

from l2rfast import _check, affine_warp, warp
from l2rfast.data.painted import Painted, Range, label_map, painted_pair
from l2rfast.errors import InputError
from l2rfast.io import as_volume, read_labels
from l2rfast.losses import dice, diffusion_energy
from l2rfast.metrics import dice as overlaps
from l2rfast.metrics import folding_fraction

from ..options import make_plain, option, refuse
from ..training.aligned import one_hot
from ..training.cases.case import images_among, visible
from ..training.options import TrainerOptions
from ..training.run import Description
from ..training.trainer import Batch, Progress, Task, seeded, train
from .network import Prediction
from .training import TrainingOptions

SMOOTHNESS = 1.0
VALIDATIONS = 8  # pairs, of label maps of their own
KEPT = 8  # random label maps for them
# What has no meaning here, or is painted.
WITHOUT = ("similarity", "window", "segmentation", "bidirectional", "probabilistic", "precision_of_prior")
PAINTED = ("affine", "scale", "elastic", "mirror", "intensity", "bad_scans")

# What differs from the defaults of the options of training. The first is what is taken unless told.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # What the method learned was trained with: on two cores, in less than an hour.
    "cpu-synthetic": {
        "synthetic": True,
        "network": "pyramid",
        "maps": 200,
        "steps": 1600,
        "rate": 2e-3,
        "cosine": True,
        "smoothness": 0.02,
    },
}


@dataclass(frozen=True)
class SyntheticOptions:
    """What to paint. The texts beside the fields are those of the command line."""

    synthetic: bool = option(False, "Train on images painted from random label maps, without --data.")
    labels: str = option("", "With --synthetic: a folder of label maps to paint instead.")
    size: tuple[int, ...] = option((96, 96, 96), "With --synthetic: of the images, voxels.")
    maps: int = option(100, "With --synthetic: how many random label maps.")
    deformation: float = option(5.0, "With --synthetic: the largest standard deviation of velocities, voxels.")

    def __post_init__(self) -> None:
        make_plain(self)
        if len(self.size) not in (2, 3) or not all(_check.is_integer(s) and s >= 16 for s in self.size):
            raise InputError(f"size: expected two or three integers, at least 16 each, got {self.size}")
        _check.at_least("maps", self.maps, 1)
        _check.not_negative("deformation", self.deformation)
        if not self.synthetic:
            for name in ("labels", "size", "maps", "deformation"):
                default = type(self).__dataclass_fields__[name].default
                if getattr(self, name) != default:
                    raise InputError(f"{name}: expected --synthetic as well, got it without")


def train_synthetic(
    out: str | os.PathLike[str],
    synthetic: SyntheticOptions,
    options: TrainingOptions | None = None,
    trainer: TrainerOptions | None = None,
    *,
    device: torch.device | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> None:
    """Train VoxelMorph on painted images.

    Args:
        out, options, trainer, device, resume, progress: see `methods.unsupervised.training.train_unsupervised`.
        synthetic: what to paint.

    Raises:
        InputError: options, label maps or a folder that cannot be used.
    """
    options, trainer = options or TrainingOptions(), trainer or TrainerOptions()
    task = SyntheticTask(options, synthetic, trainer)
    more = asdict(synthetic)
    described = Description.of("unsupervised", more.pop("labels"), task.identity(), options, trainer, **more)
    place = device or torch.device("cpu")
    train(task, out, trainer, described=described, device=place, resume=resume, progress=progress)


class SyntheticTask(Task):
    """See `methods.training.trainer.Task`. Samples are ``fixed``, ``moving``, ``fixed_labels``, ``moving_labels``.

    Args:
        options: of which the network, its start and the smoothness count.
        synthetic: what to paint.
        trainer: whose seed counts here.

    Raises:
        InputError: options of scans, sizes that the network does not take, label maps that cannot be used.
    """

    scores: ClassVar[Mapping[str, bool]] = {"DSC": True}
    validations = VALIDATIONS

    def __init__(self, options: TrainingOptions, synthetic: SyntheticOptions, trainer: TrainerOptions) -> None:
        super().__init__()
        for group, names in ((options, WITHOUT), (trainer, PAINTED)):
            refuse(group, names, "--synthetic")
        self.size, self.differing = synthetic.size, Range(deformation=synthetic.deformation)
        self.number, self.seed = synthetic.maps, trainer.seed
        self.files = [*images_among([*visible(_folder(synthetic.labels))])] if synthetic.labels else []
        if synthetic.labels and not self.files:
            raise InputError(f"labels: expected a folder of label maps, found none in {synthetic.labels}")
        torch.manual_seed(trainer.seed)
        self.network = options.made(len(self.size))
        multiple = self.network.architecture.multiple
        if any(s % multiple for s in self.size):
            raise InputError(f"size: expected multiples of {multiple}, got {self.size}")
        self.smoothness = SMOOTHNESS if options.smoothness is None else options.smoothness
        self._made: dict[int, Tensor] = {}

    def identity(self) -> str:
        """What tells the label maps from others, wherever they lie."""
        names = blake2b(repr([file.name for file in self.files]).encode(), digest_size=8).hexdigest()
        return f"{len(self.files)} label maps, {names}" if self.files else "random label maps"

    def sample(self, random: torch.Generator) -> Batch:
        number = len(self.files) or self.number
        pair = self._painted(int(torch.randint(number, (), generator=random)), random)
        labels = one_hot(pair.labels, _in_both(pair), random)
        batch = dict(zip(("fixed", "moving", "fixed_labels", "moving_labels"), (*pair.images, *labels), strict=True))
        return {name: value[0] for name, value in batch.items()}

    def _painted(self, index: int, random: torch.Generator) -> Painted:
        """Of a label map: of two that share no label, which crops can come to, others are painted."""
        for _ in range(100):
            pair = painted_pair(self._map(index), random, self.differing)
            if _in_both(pair):
                return pair
        raise InputError("labels: expected some that are in both of two images, and found none in 100 pairs")

    def _map(self, index: int) -> Tensor:
        """(1, 1, *size) uint8; those beyond the number are kept for validation."""
        if index not in self._made:
            if self.files:
                self._made[index] = _fitted(self.files[index], self.size)
            else:
                self._made[index] = label_map(self.size, torch.Generator().manual_seed(seeded(self.seed, index, 1)))
        return self._made[index]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        found: Prediction = self.network(batch["moving"], batch["fixed"])
        warped = warp(batch["moving_labels"], found.displacement)
        return {
            "segmentation": dice(batch["fixed_labels"], warped),
            "smoothness": self.smoothness * diffusion_energy(found.field),
        }

    def validate(self, index: int) -> dict[str, float]:
        pair = self._kept(index)
        displacement = self._displacement(pair)
        warped = warp(pair.labels[1], displacement, mode="nearest")
        scores = overlaps(pair.labels[0], warped, _in_both(pair)).values()
        return {"DSC": fmean(scores), "num_foldings": 100 * float(folding_fraction(displacement))}

    def _kept(self, index: int) -> Painted:
        """A pair for validation: of random label maps that are not trained on; of those of files, painted otherwise."""
        number = index % len(self.files) if self.files else self.number + index % KEPT
        return self._painted(number, torch.Generator().manual_seed(seeded(self.seed, index, 2)))

    def _displacement(self, pair: Painted) -> Tensor:
        device = next(self.network.parameters()).device
        fixed, moving = (image.to(device) for image in pair.images)
        found: Prediction = self.network(moving, fixed)
        return found.displacement.cpu()

    def picture(self) -> Tensor:
        """The middle slice of fixed, moving, and warped moving of a pair for validation."""
        pair = self._kept(0)
        shown = [*pair.images, warp(pair.images[1], self._displacement(pair))]
        flat = [image[0, 0] if len(self.size) == 2 else image[0, 0, self.size[0] // 2] for image in shown]
        return torch.cat(flat, 1).clamp(0, 1)

    def save(self, folder: Path) -> None:
        self.network.save(folder / "weights.safetensors")


def _folder(path: str) -> Path:
    if not os.path.isdir(path):
        raise InputError(f"labels: expected a folder of label maps, got {path!r}")
    return Path(path)


def _fitted(file: Path, size: tuple[int, ...]) -> Tensor:
    """The label map of a file, as large as it can be around the centre of an image: (1, 1, *size) uint8."""
    image = as_volume("labels", file, dims=(2, 3))
    labels = read_labels(file, image, "labels").data
    if labels.ndim != len(size):
        raise InputError(f"labels ({file}): expected a label map of {len(size)} axes, got {labels.ndim}")
    values, numbers = torch.unique(labels, return_inverse=True)
    if len(values) > 255:
        raise InputError(f"labels ({file}): expected at most 255 labels, got {len(values)}")
    numbers = numbers + int(values[0] > 0)  # a map without background
    step = max(own / asked for own, asked in zip(labels.shape, size, strict=True))
    centres = [torch.tensor([(s - 1) / 2 for s in shape]) for shape in (labels.shape, size)]
    matrix = torch.cat([step * torch.eye(len(size)), (centres[0] - step * centres[1])[:, None]], 1)
    return affine_warp(numbers.to(torch.uint8)[None, None], matrix[None], size, mode="nearest", padding="zeros")


def _in_both(pair: Painted) -> list[int]:
    """Labels of both images, without the background of bodies; of shapes none is one."""
    present = [set(torch.unique(labels).tolist()) for labels in pair.labels]
    return sorted((present[0] & present[1]) - {0})
