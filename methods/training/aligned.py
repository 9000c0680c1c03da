"""Training on pairs whose affines bring them near each other, moving on the fixed grid: what methods for them share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from l2rfast import _check, mind_ssc, warp, warp_local_ncc, warp_ssd
from l2rfast.errors import InputError

from ..intensities import Prepared, from_zero_to_one
from ..method import Method, apply, image_on_grid_of, on_grid_of
from ..metrics import measures
from ..names import some
from ..padding import Padding
from ..result import Registration
from ..stages import Stages
from .augmentation import Shared, deformed, random_intensities
from .bad_scans import STOP, drawn, first_usable
from .cases import Case, Pair, Pairs, Scan, cases_of, check_axes, check_size, read
from .options import TrainerOptions
from .trainer import Batch, Task

LABELS = 8  # that are drawn of a pair: all of them would fill the memory


class Usable(NamedTuple):
    """What there is of a pair to train on, (1, 1, *spatial) on the grid of the fixed scan.

    Attributes:
        images: fixed and moving, as the network takes them.
        maps: their label maps, where those are needed.
        in_both: the labels that both have, at least one.
    """

    images: list[Tensor]
    maps: list[Tensor]
    in_both: list[int]


class AlignedTask(Task):
    """See `methods.training.trainer.Task`. Samples are ``fixed``, ``moving``, and ``fixed_labels``, ``moving_labels``.

    Args:
        pairs: what to train on.
        trainer: whose augmentation and seed count here.
        needs_labels: the option for which scans have to have labels; none where empty.

    Attributes:
        ndim: of the scans.
        multiple: of which images have to be, along every axis.
        network: what is trained, with a method ``save``; set by the method.
        prepared, background: the intensities that the network takes, and what they are around an image; from 0 to 1
            unless the method sets others.

    Raises:
        InputError: scans that cannot be read, or whose labels are asked for and not there.
    """

    scores: ClassVar[Mapping[str, bool]] = {"DSC": True, "TRE_lm": False, "TRE_kp": False, "similarity": True}
    multiple: int = 1
    network: torch.nn.Module
    background: float = 0.0

    def __init__(self, pairs: Pairs, trainer: TrainerOptions, needs_labels: str) -> None:
        super().__init__()
        self.pairs, self.trainer, self.labelled = pairs, trainer, bool(needs_labels)
        self.validations = len(pairs.validation)
        self.prepared: Prepared = from_zero_to_one
        torch.manual_seed(trainer.seed)
        without = [str(case.image) for case in cases_of(pairs.training) if case.labels is None]
        if needs_labels and without and trainer.bad_scans == STOP:
            raise InputError(f"{needs_labels}: expected labels of every scan, and found none of {some(without)}")
        self.first, scan = first_usable((pair.fixed for pair in pairs.training), self._read, trainer.bad_scans)
        self.size = scan.image.data.shape
        trainer.check_axes(self.size)
        self.ndim = len(self.size)

    @abstractmethod
    def method(self) -> Method:
        """The method of registration with the network as it is."""

    @abstractmethod
    def distance(self, fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
        """How little they agree, where scans for validation have no labels."""

    def sample(self, random: torch.Generator) -> Batch:
        _, (images, maps, in_both) = self._drawn(random)
        labels = one_hot(maps, in_both, random) if self.labelled else [image[:, :0] for image in images]
        shared = Shared.drawn(self.trainer, random)
        # Image and labels in one pass.
        both = [deformed(torch.cat(pair, 1), self.trainer, random, shared) for pair in zip(images, labels, strict=True)]
        images, labels = [x[:, :1] for x in both], [x[:, 1:] for x in both]
        if self.trainer.intensity:
            images = [random_intensities(image, self.trainer.intensity, random) for image in images]
        padding = Padding(images[0].shape[2:], self.multiple)
        batch = {"fixed": images[0], "moving": images[1]}
        if self.labelled:
            batch |= dict(zip(("fixed_labels", "moving_labels"), labels, strict=True))
        around = {"fixed": self.background, "moving": self.background}
        return {name: padding.pad(value, around.get(name, 0.0))[0] for name, value in batch.items()}

    def names(self, random: torch.Generator) -> tuple[str, str]:
        pair, _ = self._drawn(random)
        return str(pair.fixed.image), str(pair.moving.image)

    def _drawn(self, random: torch.Generator) -> tuple[Pair, Usable]:
        """A pair to train on.

        Raises:
            InputError: a scan that cannot be used.
        """
        return first_usable(drawn(self.pairs, random), self._usable, self.trainer.bad_scans)

    def _usable(self, pair: Pair) -> Usable:
        fixed, moving = map(self._read, (pair.fixed, pair.moving))
        check_axes(self.first, self.ndim, {pair.fixed: fixed.image, pair.moving: moving.image})
        if self.trainer.batch > 1:
            check_size(self.first, self.size, pair.fixed, fixed.image, self.multiple)
        return Usable(self._images(pair, fixed, moving), *(_labels(pair, fixed, moving) if self.labelled else ([], [])))

    def _read(self, case: Case) -> Scan:
        """To train on."""
        scan = read(case)
        if self.labelled and (scan.labels is None or not scan.labels.data.any()):
            raise InputError(f"data ({case.labels or case.image}): expected labels to train on, and found none")
        return scan

    def validate(self, index: int) -> dict[str, float]:
        pair = self.pairs.validation[index]
        scans = self._scans(pair)
        result = self._registered(*scans)
        found = measures(result, *scans)
        if math.isnan(found.get("DSC", math.nan)):
            fixed, moving = self._images(pair, *scans)
            found["similarity"] = -float(self.distance(fixed, moving, result.displacement))
        return found

    def _scans(self, pair: Pair) -> tuple[Scan, Scan]:
        scans = read(pair.fixed), read(pair.moving)
        images = {pair.fixed: scans[0].image, pair.moving: scans[1].image}
        check_axes(self.first, self.ndim, images)
        return scans

    def _registered(self, fixed: Scan, moving: Scan) -> Registration:
        """By the network alone: its folds tell how training goes."""
        device = next(self.network.parameters()).device
        return apply(self.method(), fixed.image, moving.image, device, Stages(), without_folds=False)

    def picture(self) -> Tensor:
        """Of the first pair for validation: the middle slice of fixed, moving, warped moving, and their difference."""
        pair, scans = first_usable(self.pairs.validation, self._scans, self.trainer.bad_scans)
        fixed, moving = self._images(pair, *scans)
        warped = warp(moving, self._registered(*scans).displacement)
        shown = [image[0, 0] for image in (fixed, moving, warped, (warped - fixed).abs())]
        flat = [image if image.ndim == 2 else image[image.shape[0] // 2] for image in shown]
        return torch.cat(flat, 1).clamp(0, 1)

    def _images(self, pair: Pair, fixed: Scan, moving: Scan) -> list[Tensor]:
        """(1, 1, *spatial) each, as the network takes them, on the grid of the fixed one."""
        aligned = image_on_grid_of(fixed.image, moving.image, torch.device("cpu"))
        return [
            self.prepared(str(pair.fixed.image), fixed.image.data[None, None]),
            self.prepared(str(pair.moving.image), aligned),
        ]

    def save(self, folder: Path) -> None:
        save = self.network.save
        assert callable(save)
        save(folder / "weights.safetensors")


def check_window(window: int) -> None:
    """
    Raises:
        InputError: no window of a local NCC.
    """
    if not _check.is_integer(window) or window < 1 or window % 2 == 0:
        raise InputError(f"window: expected a positive odd number, got {window!r}")


def distance(similarity: str, window: int, fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
    """Of fixed and warped moving: minus ``lncc``, ``mse``, or the squared differences of ``mind`` features."""
    if similarity == "lncc":
        loss: Tensor = warp_local_ncc(fixed, moving, displacement, window=window)[0]
    elif similarity == "mse":
        loss = warp_ssd(fixed, moving, displacement)[0]
    else:
        with torch.no_grad():
            features = mind_ssc(fixed), mind_ssc(moving)
        loss = warp_ssd(*features, displacement)[0] / features[0].shape[1]
    return loss.mean()


def _labels(pair: Pair, fixed: Scan, moving: Scan) -> tuple[list[Tensor], list[int]]:
    """The label maps, (1, 1, *spatial) each, on the grid of the fixed one; and the labels that are in both.

    Raises:
        InputError: there is none.
    """
    assert fixed.labels is not None
    assert moving.labels is not None
    aligned = on_grid_of(fixed.image, moving.image, moving.labels.data[None, None], mode="nearest", padding="zeros")
    maps = [fixed.labels.data[None, None], aligned]
    present = [set(torch.unique(labels).tolist()) for labels in maps]
    in_both = sorted((present[0] & present[1]) - {0})
    if not in_both:
        raise InputError(f"data: expected a label that both {pair.fixed.image} and {pair.moving.image} have")
    return maps, in_both


def one_hot(maps: Sequence[Tensor], in_both: Sequence[int], random: torch.Generator) -> list[Tensor]:
    """(1, LABELS, *spatial) each, of labels that are in both, drawn again where there are fewer."""
    order = torch.randperm(len(in_both), generator=random).tolist()
    chosen = [in_both[order[i % len(order)]] for i in range(LABELS)]
    return [torch.cat([(labels == label).float() for label in chosen], 1) for labels in maps]
