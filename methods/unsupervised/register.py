"""Registration by a trained network, and from what it gives on, for the one pair, by Adam."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2rfast.errors import InputError

from ..intensities import standardised
from ..refine import lncc_distance, pool, refine, resample_field
from ..stages import Stages
from .network import Prediction, VoxelMorph

LEVEL = 2  # voxels between the control points of the fine-tuned field
WINDOW = 9  # of its local NCC
SMOOTHNESS, RATE = 0.6, 0.5  # as in the discrete method's refinement


@dataclass(frozen=True)
class UnsupervisedOptions:
    """Parameters of the method.

    Attributes:
        weights: the network's: ``.safetensors`` of `VoxelMorph.save`, or ``.h5`` as published for Keras.
        finetune: Adam steps on the network's field for this pair: control points every 2 voxels, local NCC of window 9
            at half the resolution.
    """

    weights: str
    finetune: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.weights, str | os.PathLike):
            raise InputError(f"weights: expected a path, got {self.weights!r}")
        if not isinstance(self.finetune, int) or self.finetune < 0:
            raise InputError(f"finetune: expected an integer >= 0, got {self.finetune!r}")

    def network(self) -> VoxelMorph:
        """Of three dimensions, in evaluation mode.

        Raises:
            InputError: weights that cannot be read, or of a 2-D network.
        """
        keras = os.fspath(self.weights).endswith((".h5", ".hdf5"))
        found = VoxelMorph.from_keras(self.weights) if keras else VoxelMorph.load(self.weights)
        if found.architecture.ndim != 3:
            raise InputError(f"weights: expected those of a 3-D network, but those in {self.weights} are 2-D")
        return found.eval()


def register_unsupervised(
    fixed: Tensor, moving: Tensor, network: VoxelMorph, options: UnsupervisedOptions, stages: Stages
) -> Tensor:
    """Displacement field from a fixed to a moving image on the same grid.

    Args:
        fixed, moving: (1, 1, D, H, W) float32, of intensities as the network was trained on.
        network: on their device.
        options: see `UnsupervisedOptions`.
        stages: times the stages and reports their progress.

    Returns:
        (1, 3, D, H, W) in voxels: moving at x + disp(x) corresponds to fixed at x.
    """
    with stages.stage("network"):
        field = _predicted(fixed, moving, network)
    if not options.finetune:
        return field
    size = fixed.shape[2:]
    with stages.stage("fine-tuning"):
        distance = lncc_distance(
            pool(standardised("fixed", fixed), LEVEL), pool(standardised("moving", moving), LEVEL), WINDOW
        )
        field = refine(
            distance,
            resample_field(field, [s // LEVEL for s in size], 1, LEVEL),
            iterations=options.finetune,
            smoothness=SMOOTHNESS,
            rate=RATE,
            advance=stages.advance,
        )
        return resample_field(field, size, LEVEL, 1)


def _predicted(fixed: Tensor, moving: Tensor, network: VoxelMorph) -> Tensor:
    """With background around the images up to sizes that the network takes."""
    multiple = network.architecture.multiple
    room = [-size % multiple for size in fixed.shape[2:]]
    around = [side for r in reversed(room) for side in (r // 2, r - r // 2)]
    with torch.inference_mode():
        prediction: Prediction = network(F.pad(moving, around), F.pad(fixed, around))
    field = prediction.displacement
    for axis, (r, size) in enumerate(zip(room, fixed.shape[2:], strict=True), 2):
        field = field.narrow(axis, r // 2, size)
    return field.clone()
